"""What the embedder does at the size of real models: image rules, prefetching, memory that runs out, old names."""

import json
import logging
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from g2e_lib import embedder as embedding
from g2e_lib.backbone import checkpoint
from g2e_lib.backbone.images import IMAGE_RULES, ImageRule, Prefetch, get_image_rule
from g2e_lib.data.images import open_image
from g2e_lib.embedder import Embedder
from g2e_lib.project.config import resolve_model
from g2e_lib.prompts import VISION_BLOCK

BASE = resolve_model("glyphworld-base")


def variant(embedder, **settings):
    return Embedder(embedder.model, embedder.processor, embedder.prompt, **settings)


# --- how images are shown ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        ("native", (123, 457), (123, 457)),
        ("paper_train", (640, 480), (448, 448)),
        ("paper_eval", (640, 480), (640, 480)),  # within both bounds
        ("paper_eval", (100, 100), (336, 336)),  # up to the shorter side
        ("paper_eval", (200, 300), (336, 504)),
        ("paper_eval", (1984, 1000), (992, 500)),  # down to the longer side
        ("paper_eval", (4000, 500), (992, 496)),  # squeezed to 2 : 1, then down
        ("paper_eval", (24, 640), (336, 672)),  # squeezed to 1 : 2, then up
    ],
)
def test_sizes_by_hand(rule, before, after):
    assert IMAGE_RULES[rule].size(*before) == after
    assert IMAGE_RULES[rule].resize(Image.new("RGB", before)).size == after


def test_every_size_of_the_paper_keeps_its_promise():
    rng = np.random.default_rng(0)
    for width, height in rng.integers(4, 3000, size=(500, 2)).tolist():
        short, long = sorted(IMAGE_RULES["paper_eval"].size(width, height))
        assert 336 <= short <= long <= 992
        assert long <= 2 * short + 1


def test_unknown_rule(embedder):
    with pytest.raises(ValueError, match="unknown image rule 'big': choose one of native, paper_train, paper_eval"):
        variant(embedder, images="big")
    assert get_image_rule(ImageRule(square=28)).square == 28


def test_the_rule_decides_the_visual_tokens(embedder):
    image, visual = Image.new("RGB", (64, 32), "red"), embedder.model.config.image_token_id
    side = embedder.processor.image_processor.patch_size * embedder.processor.image_processor.merge_size
    square = variant(embedder, images=ImageRule(square=2 * side))
    assert square.token_ids({"image": image}).count(visual) == 4
    small = variant(embedder, images=ImageRule(min_pixels=side * side, max_pixels=side * side))
    assert small.pixel_bounds == (side * side, side * side)
    assert small.token_ids({"image": image}).count(visual) == 1
    assert len({one.key("query")["images"]["pixels"] for one in (embedder, square)}) == 1
    grids = [tuple(one.pixels([image])["image_grid_thw"][0].tolist()) for one in (square, small)]
    assert grids == [(1, 4, 4), (1, 2, 2)]
    assert small.with_prompt("none").pixel_bounds == small.pixel_bounds


def test_without_markers_ids_and_positions_are_those_of_plain_text(embedder, monkeypatch):
    released = variant(embedder, images=ImageRule(has_markers=False))
    item = {"text": "what is this?", "image": Image.new("RGB", (64, 64), "blue")}
    tokenizer = embedder.processor.tokenizer
    markers = tokenizer.convert_tokens_to_ids(["<|vision_start|>", "<|vision_end|>"])
    standard, ids = embedder.token_ids(item), released.token_ids(item)
    assert ids == [one for one in standard if one not in markers]
    assert VISION_BLOCK in tokenizer.decode([one for i, one in enumerate(standard) if i == 0 or one != standard[i - 1]])
    seen = []
    hook = embedder.model.model.language_model.register_forward_pre_hook(
        lambda *call: seen.append(call[-1]["position_ids"]), with_kwargs=True
    )
    found = released.encode([item])
    embedder.encode([item])
    hook.remove()
    assert (seen[0] == torch.arange(len(ids))).all()
    assert not (seen[1] == torch.arange(len(standard))).all()
    assert np.abs(found - embedder.encode([item])).max() > 1e-4


# --- images opened ahead -------------------------------------------------------------------------------------------


def test_threads_change_no_bit(embedder, mixed_items):
    for budget in (300, 4096):
        expected = variant(embedder, tokens_per_batch=budget, threads=0).encode(mixed_items)
        found = variant(embedder, tokens_per_batch=budget, threads=3).encode(mixed_items)
        np.testing.assert_array_equal(found, expected)


def test_prefetch_is_bounded_and_repeats():
    made = []
    with Prefetch(lambda key: made.append(key) or key * 10, range(20), threads=2, ahead=3) as prefetch:
        assert prefetch.get([0, 1]) == [0, 10]
        assert prefetch.get([0]) == [0]  # a batch again, with fewer
        assert prefetch.get([1, 2]) == [10, 20]
    assert sorted(made) == list(range(max(made) + 1))  # each once
    assert max(made) <= 2 + 3


def test_a_broken_image_is_named_from_a_thread(embedder, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"no image")
    items = [{"image": Image.new("RGB", (64, 64))}, {"image": tmp_path / "cut.png"}]
    with pytest.raises(ValueError, match="cut.png is not an image file PIL can read"):
        variant(embedder, threads=2).encode(items)


def test_a_bomb_is_refused(tmp_path, monkeypatch):
    Image.new("L", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(ValueError, match=r"bomb.png is damaged \(Image size \(90000 pixels\) exceeds limit"):
        open_image(tmp_path / "bomb.png")


# --- memory that runs out ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [0, 2])
def test_out_of_memory_halves_the_budget_and_loses_nothing(embedder, mixed_items, monkeypatch, caplog, threads):
    expected = embedder.encode(mixed_items)
    small, batches, original = variant(embedder, tokens_per_batch=4096, threads=threads), [], embedding.last_states

    def forward(model, ids, *rest):
        if len(ids) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        batches.append(len(ids))
        return original(model, ids, *rest)

    monkeypatch.setattr(embedding, "last_states", forward)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_allclose(small.encode(mixed_items), expected, atol=1e-5)
    assert sum(batches) == len({*range(len(mixed_items))}) - (len(mixed_items) - len(set(map(str, mixed_items))))
    assert f"out of memory: going on with tokens_per_batch {small.tokens_per_batch}" in caplog.text
    assert small.tokens_per_batch < 4096  # kept for what comes later


def test_out_of_memory_with_one_input_says_what_to_lower(embedder, monkeypatch):
    def forward(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(embedding, "last_states", forward)
    with pytest.raises(RuntimeError, match=r"out of memory with a single input of \d+ tokens: lower max_length"):
        variant(embedder).encode(["a", "b", "c"])


# --- checkpoints ---------------------------------------------------------------------------------------------------


def test_attention_is_flash_only_where_it_can_be(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoint, "is_flash_attn_2_available", lambda: True)
    choose = checkpoint.default_attention
    assert choose("cuda:1", "bfloat16") == "flash_attention_2"
    assert {choose("cpu", "bfloat16"), choose("cuda", "float32")} == {"sdpa"}
    monkeypatch.setattr(checkpoint, "is_flash_attn_2_available", lambda: False)
    assert choose("cuda", "bfloat16") == "sdpa"
    with pytest.raises(ValueError, match="flash-attention 2 is not installed, or there is no CUDA device: use"):
        Embedder.from_pretrained("glyphworld-base", attention="flash_attention_2")
    with pytest.raises(ValueError, match="unknown attention 'fast': choose 'sdpa'"):
        Embedder.from_pretrained("glyphworld-base", attention="fast")


def test_a_revision_goes_to_the_hub(monkeypatch, tmp_path):
    asked = {}
    monkeypatch.setattr(
        checkpoint, "snapshot_download", lambda name, **rest: asked.update(name=name, **rest) or tmp_path
    )
    checkpoint.checkpoint_folder("org/name@abc123")
    assert (asked["name"], asked["revision"]) == ("org/name", "abc123")
    checkpoint.checkpoint_folder("org/name")
    assert asked["revision"] is None


def old_names(weights, prefix=""):
    """State of a Qwen2-VL as it was named when the released checkpoints were saved."""
    renamed = {}
    for name, tensor in weights.items():
        name = name.removeprefix(prefix)
        name = name.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)
        renamed[prefix + name] = tensor.clone()
    return renamed


def test_a_checkpoint_with_the_released_names_loads(embedder, tmp_path):
    folder = tmp_path / "old"
    shutil.copytree(BASE, folder)
    file = next(folder.glob("*.safetensors"))
    weights = old_names(load_file(file))
    assert any(name.startswith("model.layers.0.") for name in weights)
    save_file(weights, file, metadata={"format": "pt"})
    old = Embedder.from_pretrained(folder, device="cpu", dtype="float32")
    np.testing.assert_array_equal(old.encode(["a red sun"]), embedder.encode(["a red sun"]))


def test_an_adapter_with_the_released_names_loads(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32").model
    layers = ["q_proj", "v_proj"]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=layers, init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "new")
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    file = tmp_path / "old" / "adapter_model.safetensors"
    save_file(old_names(load_file(file), "base_model.model."), file)
    new, old = (
        Embedder.from_pretrained("glyphworld-base", adapter=tmp_path / name, device="cpu", dtype="float32")
        for name in ("new", "old")
    )
    np.testing.assert_array_equal(old.encode(["a red sun"]), new.encode(["a red sun"]))


def test_an_adapter_without_safetensors(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    (tmp_path / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"has no adapter_model.safetensors: convert \*.bin weights to safetensors"):
        Embedder.from_pretrained("glyphworld-base", adapter=tmp_path)


def test_an_adapter_finds_its_base_model(tmp_path):
    from peft import LoraConfig, get_peft_model

    model = Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32").model
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.peft_config["default"].base_model_name_or_path = "glyphworld-base"
    adapted.save_pretrained(tmp_path)
    alone = Embedder.from_pretrained(tmp_path, device="cpu", dtype="float32")
    both = Embedder.from_pretrained("glyphworld-base", adapter=tmp_path, device="cpu", dtype="float32")
    np.testing.assert_array_equal(alone.encode(["a red sun"]), both.encode(["a red sun"]))
    assert alone.identity == both.identity
