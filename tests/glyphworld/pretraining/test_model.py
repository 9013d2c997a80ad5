import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2VLForConditionalGeneration

import g2e_lib  # noqa: F401 (registers the processor)
from g2e_lib.glyphworld.pretraining import pretrain
from g2e_lib.glyphworld.pretraining.model import build_model, build_processor, build_tokenizer
from g2e_lib.project.config import resolve_model
from g2e_lib.project.store import read_json
from g2e_lib.prompts import render

BASE = Path(resolve_model("glyphworld-base"))


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(BASE)


def test_loads_as_any_checkpoint(processor):
    model = AutoModelForImageTextToText.from_pretrained(BASE)
    assert type(model) is Qwen2VLForConditionalGeneration
    assert model.dtype == torch.bfloat16
    assert 2.5e6 < sum(p.numel() for p in model.parameters()) < 6.5e6
    assert type(processor).__name__ == "G2EProcessor"
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 16e6


def test_works_without_torchvision(processor):
    import sys

    assert "torchvision" not in sys.modules
    output = processor(
        text=["<|vision_start|><|image_pad|><|vision_end|>"], images=[Image.new("RGB", (64, 64))], return_tensors="pt"
    )
    assert output["image_grid_thw"].tolist() == [[1, 4, 4]]
    assert (output["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum() == 4


def test_chat_template_equals_the_rendered_prompt(processor):
    image = {"type": "image"}
    for system, text, has_image in (("Be short.", "a sun", False), (None, "what?", True), ("Be short.", "", True)):
        content = [image] * has_image + [{"type": "text", "text": text}] * bool(text)
        messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": content}]
        from g2e_lib.prompts import Prompt

        expected = render(Prompt("x", system=system), "query", text, has_image)
        assert processor.apply_chat_template(messages, add_generation_prompt=True) == expected


def test_facts_belong_to_the_weights():
    facts, log = pretrain.read_training_record(BASE)
    assert facts["sha256 of weights"] == hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert {record["phase"] for record in log} == {"vision", "language"}
    assert log[-1]["step"] == facts["steps"] == facts["recipe"]["steps"]
    model = AutoModelForImageTextToText.from_pretrained(BASE)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())


def test_the_shipped_model_is_in_the_table_of_all_models():
    facts, _ = pretrain.read_training_record(BASE)
    models = read_json(pretrain.BASE_MODELS, made_by="git checkout")
    assert [m["weights"] for m in models if m["chosen"] == "yes"] == [facts["sha256 of weights"][:16]]


def test_building_is_deterministic():
    texts = ["a red sun", "what colour is the sun?"] * 50
    one, two = (build_tokenizer(texts) for _ in range(2))
    assert one.backend_tokenizer.to_str() == two.backend_tokenizer.to_str()
    weights = [build_model(tokenizer, seed=3).state_dict() for tokenizer in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_word_begins_alike_after_a_space_and_at_the_start_of_a_line():
    tokenizer = build_tokenizer(["a red sun", "sun\nred"] * 50)
    embeddings = build_model(tokenizer, seed=0).get_input_embeddings().weight.detach()
    (sun,), (spaced_sun,), (red,) = (tokenizer(text).input_ids for text in ("sun", " sun", "red"))
    cosine = torch.nn.functional.cosine_similarity
    assert float(cosine(embeddings[sun], embeddings[spaced_sun], dim=0)) == pytest.approx(0.8, abs=0.1)
    assert abs(float(cosine(embeddings[red], embeddings[spaced_sun], dim=0))) < 0.3


def test_tokenizer_round_trips_any_text():
    tokenizer = build_tokenizer(["a red sun"] * 20)
    for text in ("a red sun", "Ünïcödé ☀ 数\n\t x", "<|im_start|>user\nhello<|im_end|>"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


@pytest.mark.parametrize(
    ("size", "tokens"), [((64, 64), 4), ((32, 32), 1), ((96, 32), 3), ((2000, 1000), 16), ((16, 16), 1)]
)
def test_image_sizes_become_visual_tokens(size, tokens):
    processor = build_processor(build_tokenizer(["a"]))
    grid = processor.image_processor(images=[Image.fromarray(np.zeros((*size[::-1], 3), np.uint8))])["image_grid_thw"]
    assert int(np.prod(grid[0])) // 4 <= tokens
    assert int(np.prod(grid[0])) // 4 >= max(1, tokens - 8)
