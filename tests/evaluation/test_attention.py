import numpy as np
import pytest
import torch

from g2e_lib.data.items import Item
from g2e_lib.evaluation import attention
from g2e_lib.project.store import Store

PARTS = attention.PARTS


@pytest.mark.parametrize("prompt", ["none", "user", "system", "hierarchical"])
def test_every_token_has_a_part(embedder, mixed_items, prompt):
    prompted = embedder.with_prompt(prompt)
    item = next(one for one in mixed_items if isinstance(one, Item) and one.image and not one.text)
    ids = prompted.token_ids(item)
    parts = attention.part_of_tokens(prompted, ids)
    tokenizer = prompted.processor.tokenizer
    text = {name: tokenizer.decode(np.array(ids)[parts == number].tolist()) for number, name in enumerate(PARTS)}
    assert text["assistant"] == "<|im_start|>assistant\n"
    assert ("summarize the provided image" in text["system"]) == (prompted.prompt.system is not None)
    assert set(np.array(ids)[parts == PARTS.index("image")]) == {prompted.model.config.image_token_id}
    assert ("Represent the given" in text["user"]) == (prompted.prompt.query is not None)


def rotated(vectors, theta):
    """Rotary positions of a text, whose three components are equal: pairs (i, i + half) turn by place x frequency."""
    length, half = vectors.shape[0], vectors.shape[1] // 2
    angles = np.arange(length)[:, None] * theta ** (-np.arange(half) / half)
    one, other = vectors[:, :half], vectors[:, half:]
    turned = one * np.cos(angles) - other * np.sin(angles), other * np.cos(angles) + one * np.sin(angles)
    return np.concatenate(turned, axis=1)


@torch.inference_mode()
def by_hand(embedder, ids):
    """The first layer's attention of the last token, head by head, from its weight matrices."""
    model = embedder.model.model.language_model
    layer = model.layers[0].self_attn
    states = model.layers[0].input_layernorm(model.embed_tokens(torch.tensor(ids)))
    queries, keys = (one(states).numpy().astype(np.float64) for one in (layer.q_proj, layer.k_proj))
    size, theta, weights = layer.head_dim, model.config.rope_parameters["rope_theta"], []
    for start in range(0, queries.shape[1], size):
        query, key = (rotated(one[:, start : start + size], theta) for one in (queries, keys))
        powers = np.exp(key @ query[-1] / size**0.5)
        weights.append(powers / powers.sum())
    return np.mean(weights, axis=0)


def test_shares_equal_a_computation_by_hand(embedder):
    ids = embedder.token_ids("a red sun")
    weights, parts = by_hand(embedder, ids), attention.part_of_tokens(embedder, ids)
    shares = attention.attention_shares(embedder, ["a red sun"])
    for number in range(len(PARTS)):
        assert shares[0, 0, number] == pytest.approx(weights[parts == number].sum(), abs=1e-5)


def test_shares_sum_to_one_and_leave_the_model_as_it_was(embedder, mixed_items):
    items = mixed_items[:6]
    before = embedder.encode(items)
    shares = attention.attention_shares(embedder, items)
    assert shares.shape == (6, len(embedder.model.model.language_model.layers), len(PARTS))
    np.testing.assert_allclose(shares.sum(2), 1, atol=1e-5)
    np.testing.assert_array_equal(embedder.encode(items), before)
    assert not any(layer.self_attn._forward_hooks for layer in embedder.model.model.language_model.layers)


def test_prompts_are_compared_with_intervals(embedder, mixed_items, tmp_path):
    images = [one for one in mixed_items if isinstance(one, Item) and one.image and not one.text][:3]
    pairs = [(image, Item(text)) for image, text in zip(images, ("a sun", "two stars", "a key"), strict=False)]
    found = attention.compare_attention(embedder, ["none", "hierarchical"], pairs, Store(tmp_path))
    for name, kinds in found.items():
        assert list(kinds) == ["image", "caption"]
        for layer in (one for layers in kinds.values() for one in layers):
            assert sum(layer[part]["value"] for part in PARTS) == pytest.approx(100, abs=1e-2)
            assert layer["user"]["low"] <= layer["user"]["value"] <= layer["user"]["high"]
        assert (kinds["image"][0]["system"]["value"] > 0) == (name == "hierarchical")
        assert kinds["caption"][0]["image"]["value"] == 0


def test_items_in_two_parts_are_refused(embedder, mixed_items):
    both = next(one for one in mixed_items if isinstance(one, Item) and one.image and one.text)
    with pytest.raises(ValueError, match="embeds image and text apart"):
        attention.attention_shares(embedder.with_prompt("unime"), [both])
