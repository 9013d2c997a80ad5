import numpy as np
import pytest
import torch
from PIL import Image

from g2e_lib.data.images import open_image
from g2e_lib.data.items import Item
from g2e_lib.embedder import as_item
from g2e_lib.evaluation import generate
from g2e_lib.evaluation.gap import image_text_pairs
from g2e_lib.glyphworld import benchmark
from g2e_lib.project.store import Store
from g2e_lib.prompts import render


@torch.no_grad()
def full_logits(embedder, item):
    text, source = as_item(item)
    images = [open_image(source)] if source is not None else None
    chat = render(embedder.prompt, "query", text, images is not None)
    return embedder.model(**embedder.processor(text=[chat], images=images, return_tensors="pt")).logits[0, -1].float()


def test_next_words_are_the_full_models_prediction(embedder):
    items = ["a red sun", {"text": "what is this?", "image": Image.new("RGB", (64, 64), "red")}]
    probabilities = generate.next_word_probabilities(embedder, items)
    expected = torch.stack([full_logits(embedder, item) for item in items]).softmax(-1).numpy()
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_reply_is_greedy(embedder):
    """Each token of the reply is the likeliest one after those before it."""
    plain = embedder.with_prompt("none")
    answer = generate.reply(plain, "a red sun is at the top left.\nwhat colour is the sun?", max_new_tokens=8)
    chat = render("none", "query", "a red sun is at the top left.\nwhat colour is the sun?", False)
    ids = plain.processor.tokenizer(chat, return_tensors="pt").input_ids
    out = []
    with torch.no_grad():
        for _ in range(8):
            out.append(int(plain.model(input_ids=ids).logits[0, -1].argmax()))
            if out[-1] == plain.processor.tokenizer.eos_token_id:
                break
            ids = torch.cat((ids, torch.tensor([[out[-1]]])), dim=1)
    assert answer == plain.processor.tokenizer.decode(out).removesuffix("<|im_end|>")


def test_prompt_tokens_spell_the_prompt(embedder):
    item = {"text": "what is this?", "image": Image.new("RGB", (64, 64))}
    lines = generate.prompt_tokens(embedder, item)
    spelled = "".join(token for line in lines for token in line["tokens"]).replace("\\n", "\n")
    expected = render("hierarchical", "query", "what is this?", True)
    assert spelled == expected.replace("<|image_pad|>", "<|image_pad|> x 4")
    assert [line["is_pooled"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert lines[-1]["tokens"][-1] == "\\n"


def test_comparison_of_next_words(embedder, small_build, tmp_path):
    rows, _ = benchmark.load(small_build, ["CaptionI2T"])
    pairs = image_text_pairs(rows["CaptionI2T"], 4)
    first, second = generate.compare_next_words(embedder, ["none", "system"], pairs, Store(tmp_path), top_k=3)
    for side in (first["image"], first["text"]):
        assert len({word for word, _ in side}) == 3  # tokens that differ in a space are one word
        assert [p for _, p in side] == sorted((p for _, p in side), reverse=True)
    assert [first["prompt"], second["prompt"]] == ["none", "system"]
    assert len(first["image"]) == 3
    probabilities = [p for _, p in first["image"]]
    assert probabilities == sorted(probabilities, reverse=True)
    same = generate.compare_next_words(embedder, ["none"], [(Item("a sun"), Item("a sun"))], Store(tmp_path))[0]
    assert same["overlap"]["value"] == pytest.approx(100, abs=1e-3)


def test_states_of_fused_items_are_refused(embedder):
    item = {"text": "a", "image": Image.new("RGB", (64, 64))}
    with pytest.raises(ValueError, match="prompt 'unime' embeds image and text apart"):
        generate.next_word_probabilities(embedder.with_prompt("unime"), [item])
    with pytest.raises(ValueError, match="prompt 'unime' embeds image and text apart"):
        generate.prompt_tokens(embedder.with_prompt("unime"), item)
