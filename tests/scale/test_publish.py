"""What is published loads elsewhere, and embeds as it did here."""

import json

import jinja2
import numpy as np
import pytest
import yaml
from PIL import Image

from g2e_lib.embedder import Embedder
from g2e_lib.prompts import PROMPTS, render
from g2e_lib.scale import publish
from g2e_lib.scale.publish import Release, embedding_template, publish_adapter, publish_merged

SYSTEM, IMAGE = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, {"type": "image"}


def message(text, has_image, is_reversed=False):
    parts = [*([IMAGE] if has_image else []), *([{"type": "text", "text": text}] if text else [])]
    return [{"role": "user", "content": parts[::-1] if is_reversed else parts}]


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    model = Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32").model
    get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).save_pretrained(folder)
    return folder


def items():
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, size=(60, 90, 3), dtype=np.uint8))
    red = Image.new("RGB", (64, 64), "red")
    return [
        "a red sun",
        "a blue king and two black stars on white",
        {"image": red},
        {"image": noise},
        {"text": "what is this?", "image": noise},
        {"image": red, "text": "which colour is it, and why"},
    ]


@pytest.mark.parametrize("name", [name for name, prompt in PROMPTS.items() if prompt.fusion == "joint"])
@pytest.mark.parametrize("task", ["query", "document"])
def test_the_template_renders_what_we_render(name, task):
    template = jinja2.Environment().from_string(embedding_template(PROMPTS[name]))
    role = "query" if task == "query" else "target"
    for text, has_image in (("a sun", False), ("", True), (" a sun \n", True), ('say "it\'s" {{x}}', False)):
        expected = render(name, role, text, has_image)
        for is_reversed in (False, True):
            assert template.render(messages=message(text, has_image, is_reversed), task=task) == expected
    assert template.render(messages=message("a", False)) == render(name, "target", "a", False)  # no task: a target
    assert "<|im_start|>system\nBe brief.<|im_end|>\n" in template.render(messages=[SYSTEM, *message("a", False)])


@pytest.mark.parametrize("name", ["hierarchical", "none", "e5v"])
def test_sentence_transformers_embeds_the_same(adapter, tmp_path, name):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = publish_merged(Release("glyphworld-base", str(adapter), name, dtype="float32"), tmp_path / "model")
    ours = Embedder.from_pretrained("glyphworld-base", prompt=name, adapter=adapter, device="cpu", dtype="float32")
    again = Embedder.from_pretrained(folder, prompt=name, device="cpu", dtype="float32")
    theirs = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    for role, encode in (("query", theirs.encode_query), ("target", theirs.encode_document)):
        expected = ours.encode(items(), role)
        np.testing.assert_allclose(again.encode(items(), role), expected, atol=1e-5)
        np.testing.assert_allclose(encode(items()), expected, atol=1e-5)
        for item, one in zip(items(), expected, strict=True):
            np.testing.assert_allclose(encode([item])[0], one, atol=1e-5)
    base = Embedder.from_pretrained("glyphworld-base", prompt=name, device="cpu", dtype="float32")
    assert np.abs(base.encode(items()) - ours.encode(items())).max() > 1e-3  # the adapter does something


def test_an_adapter_names_its_base_by_a_name_others_have(adapter, tmp_path):
    folder = publish_adapter(Release("glyphworld-base", str(adapter)), tmp_path / "out")
    settings = json.loads((folder / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "glyphworld-base"
    assert {"adapter_model.safetensors", "README.md", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in folder.iterdir()
    }
    ours = Embedder.from_pretrained("glyphworld-base", adapter=adapter, device="cpu", dtype="float32")
    np.testing.assert_array_equal(
        Embedder.from_pretrained(folder, device="cpu", dtype="float32").encode(["a"]), ours.encode(["a"])
    )


def test_cards_are_filled_in(adapter, tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "table_1_zero_shot.md").write_text("| model | overall |\n")
    release = Release("Qwen/Qwen2-VL-2B-Instruct", str(adapter), results=str(tmp_path))
    for is_merged, library in ((True, "sentence-transformers"), (False, "peft")):
        card = publish.model_card(release, is_merged)
        facts = yaml.safe_load(card.split("---")[1])
        assert facts["library_name"] == library
        assert facts["base_model"] == "Qwen/Qwen2-VL-2B-Instruct"
        assert facts["license"]
        assert "Represent the given text/image in one word." in card
        assert "| model | overall |" in card
        assert str(adapter) not in card
    with pytest.raises(ValueError, match="nowhere has no table of results: run the notebooks first"):
        publish.model_card(Release("a/b", results="nowhere"), is_merged=True)


def test_what_is_refused(adapter, tmp_path):
    (tmp_path / "old").write_text("x")
    with pytest.raises(ValueError, match="is not empty: choose a new folder"):
        publish_merged(Release("glyphworld-base"), tmp_path)
    with pytest.raises(ValueError, match="prompt 'unime' embeds image and text apart: publish another one"):
        publish_merged(Release("glyphworld-base", prompt="unime"), tmp_path / "new")
    with pytest.raises(ValueError, match="unknown dtype 'int8': use 'float32' or 'bfloat16'"):
        publish_merged(Release("glyphworld-base", dtype="int8"), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_nothing_is_uploaded_without_the_flag(adapter, tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(publish, "push", lambda *arguments: pushed.append(arguments) or "address")
    arguments = ["--model", "glyphworld-base", "--adapter", str(adapter), "--adapter-only"]
    assert publish.main([str(tmp_path / "a"), *arguments]) == 0
    assert pushed == []
    assert publish.main([str(tmp_path / "b"), *arguments, "--push", "org/name"]) == 0
    assert pushed == [(tmp_path / "b", "org/name", True)]  # private unless asked


def test_a_refused_upload(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"cannot upload to 'org/name' \(.*\): check the name and `hf auth login`"):
        publish.push(tmp_path, "org/name")
