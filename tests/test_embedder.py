import shutil

import numpy as np
import pytest
import torch
from definition import NAMES, embed
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from g2e_lib import embedder as embedder_module
from g2e_lib.backbone import qwen2vl
from g2e_lib.data.images import open_image
from g2e_lib.data.items import Item
from g2e_lib.embedder import Embedder, as_item
from g2e_lib.project.config import resolve_model

BASE = resolve_model("glyphworld-base")


@pytest.fixture(scope="module")
def stock():
    """The checkpoint as any user of transformers gets it, with its own attention."""
    model = AutoModelForImageTextToText.from_pretrained(BASE, dtype=torch.float32).eval()
    return model, AutoProcessor.from_pretrained(BASE)


def slow(stock, name, role, items):
    split = [as_item(item) for item in items]
    return np.stack([embed(*stock, name, role, text, open_image(i) if i is not None else None) for text, i in split])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("role", ["query", "target"])
def test_equals_the_slow_definition(embedder, stock, mixed_items, name, role):
    items = mixed_items[::4]
    expected = slow(stock, name, role, items)
    np.testing.assert_allclose(embedder.with_prompt(name).encode(items, role), expected, atol=1e-5)


def test_float32_unit_rows_in_the_callers_order(embedder, mixed_items):
    embeddings = embedder.encode(mixed_items)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(mixed_items), embedder.dimension)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(embedder.encode(mixed_items[::-1]), embeddings[::-1], atol=1e-5)


def test_an_item_embeds_the_same_alone_and_in_any_batch(embedder, mixed_items):
    items = mixed_items[::3]
    embeddings = embedder.encode(items)
    for index in range(0, len(items), 3):
        np.testing.assert_allclose(embedder.encode([items[index]])[0], embeddings[index], atol=1e-5)
    for budget in (1, 100, 100_000):
        other = Embedder(embedder.model, embedder.processor, "hierarchical", tokens_per_batch=budget)
        np.testing.assert_allclose(other.encode(items), embeddings, atol=1e-5)


def test_a_common_beginning_changes_nothing(embedder, mixed_items, monkeypatch):
    lengths = []
    original = embedder_module.encode_prefix
    monkeypatch.setattr(embedder_module, "encode_prefix", lambda m, ids: lengths.append(len(ids)) or original(m, ids))
    shared = embedder.encode(mixed_items)
    assert len(lengths) == 1
    assert lengths[0] > 20  # the system message
    monkeypatch.setattr(qwen2vl, "MIN_SHARING", 10_000)
    np.testing.assert_allclose(embedder.encode(mixed_items), shared, atol=1e-5)
    assert len(lengths) == 1


def test_common_beginnings_stop_before_images_and_the_last_token(embedder, small_build):
    monkey = [Item(str(i), path) for i, path in enumerate([next((small_build / "images").iterdir())] * 9)]
    together = embedder.encode(monkey)
    np.testing.assert_allclose(embedder.encode(monkey[:1]), together[:1], atol=1e-5)
    texts = ["sun"] + [f"sun{c}" for c in "abcdefghijk"]
    plain = embedder.with_prompt("none")
    np.testing.assert_allclose(plain.encode(texts)[:1], plain.encode(texts[:1]), atol=1e-5)


def test_different_items_embed_differently(embedder):
    similarity = (e := embedder.encode(["a red sun", "a blue king"])) @ e.T
    assert similarity[0, 1] < 0.999


def test_identical_items_are_run_once(embedder, monkeypatch):
    seen = []
    original = embedder_module.last_states
    monkeypatch.setattr(
        embedder_module, "last_states", lambda m, ids, *rest: seen.append(len(ids)) or original(m, ids, *rest)
    )
    image = Image.new("RGB", (64, 64), "red")
    items = ["a", "b", "a", image, image.copy(), {"text": " a "}]
    embeddings = embedder.encode(items)
    assert sum(seen) == 3
    np.testing.assert_array_equal(embeddings[[0, 3]], embeddings[[2, 4]])


def test_the_forms_of_an_item_are_the_same(embedder, small_build):
    path = next((small_build / "images").iterdir())
    image = Image.open(path)
    forms = [
        {"text": "a", "image": path},
        {"text": "a", "image": str(path)},
        Item("a", path),
        {"image": image, "text": "a"},
    ]
    embeddings = embedder.encode(forms)
    np.testing.assert_allclose(embeddings, embeddings[:1].repeat(4, axis=0), atol=1e-6)


def test_no_items_give_an_empty_array(embedder):
    assert embedder.encode([]).shape == (0, embedder.dimension)


def test_no_vocabulary_logits_and_no_other_states(embedder, monkeypatch):
    def forbidden(*_, **__):
        raise AssertionError("the language model head was run")

    monkeypatch.setattr(embedder.model.lm_head, "forward", forbidden)
    outputs = []
    hook = embedder.model.model.register_forward_hook(lambda *call: outputs.append(call[-1]))
    embedder.encode(["a red sun"])
    hook.remove()
    assert outputs[0].hidden_states is None


def test_mm_token_type_ids_are_passed(embedder, small_build):
    seen = []
    hook = embedder.model.model.register_forward_pre_hook(lambda *call: seen.append(call[-1]), with_kwargs=True)
    embedder.encode([Item("what?", next((small_build / "images").iterdir())), "text"])
    hook.remove()
    assert all((k["mm_token_type_ids"] == (k["input_ids"] == embedder.model.config.image_token_id)).all() for k in seen)


def test_long_texts_lose_their_end_and_never_the_prompt(embedder, caplog):
    short = Embedder(embedder.model, embedder.processor, "hierarchical", max_length=100)
    ids = short.token_ids("sun " * 200)
    whole = embedder.token_ids("sun")
    assert len(ids) <= 100
    assert ids[-12:] == whole[-12:]
    np.testing.assert_allclose(short.encode(["sun " * 200]), short.encode(["sun " * 300]), atol=1e-5)
    assert "cut the text of 1 of 1 inputs to 100 tokens" in caplog.text


def test_an_image_is_never_cut(embedder):
    tiny = Embedder(embedder.model, embedder.processor, "hierarchical", max_length=20)
    with pytest.raises(ValueError, match="max_length 20 has no room for the prompt and an image of 4 visual tokens"):
        tiny.encode([Image.new("RGB", (64, 64))])


def test_fused_items_are_the_sum_of_their_parts(embedder):
    unime, image = embedder.with_prompt("unime"), Image.new("RGB", (64, 64), "blue")
    text, picture, both = unime.encode(["a sky", image, {"text": "a sky", "image": image}])
    total = text + picture
    np.testing.assert_allclose(both, total / np.linalg.norm(total), atol=1e-6)


@pytest.mark.parametrize("field", ["prompt", "role", "max_length", "checkpoint", "images"])
def test_the_cache_key_sees(embedder, field):
    key = embedder.key("query")
    if field == "prompt":
        assert embedder.with_prompt("none").key("query") != key
    elif field == "role":
        assert embedder.key("target") != key
    elif field == "images":
        other = Embedder(embedder.model, embedder.processor, "hierarchical", images="paper_eval")
        assert other.key("query")[field] != key[field]
    else:
        other = Embedder(embedder.model, embedder.processor, "hierarchical", identity="other", max_length=64)
        assert other.key("query")[field] != key[field]


def test_prompts_that_say_the_same_share_work(embedder):
    assert embedder.with_prompt("none").key("target") == embedder.with_prompt("user").key("target")


# --- errors name the item and the remedy --------------------------------------------------------------------------


def one_sentence(error):
    message = str(error.value)
    assert "\n" not in message
    assert ": " in message  # what is wrong, then what to do
    return message


def test_missing_image(embedder, tmp_path):
    with pytest.raises(ValueError, match="gone.png does not exist: check the path") as error:
        embedder.encode(["fine", Item("", tmp_path / "gone.png")])
    one_sentence(error)


def test_truncated_png(embedder, tmp_path):
    path = tmp_path / "cut.png"
    Image.effect_noise((64, 64), 90).save(path)
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(ValueError, match=r"cut.png is damaged \(.*\): download it again or remove it") as error:
        embedder.encode([{"image": path}])
    one_sentence(error)


def test_not_an_image(embedder, tmp_path):
    (tmp_path / "page.jpg").write_text("<html>404</html>")
    with pytest.raises(ValueError, match="page.jpg is not an image file PIL can read") as error:
        embedder.encode([{"image": str(tmp_path / "page.jpg")}])
    one_sentence(error)


@pytest.mark.parametrize("size", [(3, 64), (64, 3), (2, 2), (4, 900)])
def test_images_too_thin(embedder, tmp_path, size):
    Image.new("RGB", size).save(tmp_path / "thin.png")
    with pytest.raises(ValueError, match=rf"thin.png is {size[0]}x{size[1]} pixels, but both sides must") as error:
        embedder.encode([{"image": tmp_path / "thin.png"}])
    one_sentence(error)


@pytest.mark.parametrize("item", ["", "  \n", {"text": ""}, {"text": None, "image": None}, Item("")])
def test_empty_text_without_image(embedder, item):
    with pytest.raises(ValueError, match="item 1: an item has neither text nor image") as error:
        embedder.encode(["fine", item])
    one_sentence(error)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (7, "cannot embed a int: give a string"),
        ({"txt": "a"}, "unknown key 'txt': use 'text' and 'image'"),
        ({"text": "a", "image": 5}, "'image' a PIL image or a path"),
    ],
)
def test_wrong_types(embedder, item, message):
    with pytest.raises(ValueError, match=f"item 0: .*{message}"):
        embedder.encode([item])


def test_a_bare_item_instead_of_a_list(embedder):
    with pytest.raises(ValueError, match="encode takes a list of items"):
        embedder.encode("a red sun")


def test_unknown_prompt_before_anything_is_loaded():
    with pytest.raises(ValueError, match="unknown prompt 'best': choose one of none"):
        Embedder.from_pretrained("nowhere", prompt="best")


# --- real files ---------------------------------------------------------------------------------------------------


def test_real_photos_and_the_real_tokenizer(embedder, shared_data, tmp_path):
    """A tiny random Qwen2-VL with the released vocabulary embeds photos of any size, equal to the slow way."""
    from transformers import Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from g2e_lib.backbone.processor import G2EProcessor

    folder = shared_data / "qwen2_tokenizer"
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    tokenizer = Qwen2Tokenizer.from_pretrained(
        folder, pad_token="<|endoftext|>", extra_special_tokens=special[1:] + ["<|video_pad|>"]
    )
    image_processor = Qwen2VLImageProcessorPil(size={"shortest_edge": 56 * 56, "longest_edge": 224 * 224})
    G2EProcessor(image_processor, tokenizer).save_pretrained(tmp_path)
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(tokenizer), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen2VLForConditionalGeneration(config).save_pretrained(tmp_path)
    real = Embedder.from_pretrained(tmp_path, device="cpu", dtype="float32")
    photos = sorted((shared_data / "coco_val2017").glob("*.jpg"))
    items = [*photos[:2], "a photo", {"text": "what is it?", "image": photos[3]}]
    items = [{"image": item} if not isinstance(item, str | dict) else item for item in items]
    stock = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.float32), real.processor
    np.testing.assert_allclose(real.encode(items), slow(stock, "hierarchical", "query", items), atol=1e-5)


# --- checkpoints --------------------------------------------------------------------------------------------------


def test_folder_without_processor(tmp_path):
    shutil.copytree(BASE, tmp_path / "model")
    for name in ("preprocessor_config.json", "processor_config.json"):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    with pytest.raises(
        ValueError, match="model has no processor .*: copy it there from the model it was trained from"
    ) as error:
        Embedder.from_pretrained(tmp_path / "model")
    one_sentence(error)
