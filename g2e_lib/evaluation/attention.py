"""Where the pooled token looks: the share of its attention that each part of the chat gets, layer by layer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from g2e_lib.backbone.qwen2vl import hidden_states
from g2e_lib.data.items import Item, item_digests
from g2e_lib.embedder import Embeddable, Embedder
from g2e_lib.evaluation.statistics import estimate
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import Store
from g2e_lib.prompts import TURN_START, Role

PARTS = ("system", "image", "user", "assistant")


@contextmanager
def _recorded_weights(embedder: Embedder) -> Iterator[list[Tensor]]:
    """Let the language model compute attention in the way that shows its weights, and collect them: one a layer."""
    text_model = embedder.model.model.language_model
    usual, weights = text_model.config._attn_implementation, []
    hooks = [
        layer.self_attn.register_forward_hook(lambda module, inputs, output: weights.append(output[1]))
        for layer in text_model.layers
    ]
    text_model.config._attn_implementation = "eager"
    try:
        yield weights
    finally:
        text_model.config._attn_implementation = usual
        for hook in hooks:
            hook.remove()


def part_of_tokens(embedder: Embedder, ids: Sequence[int]) -> np.ndarray:
    """The part of the chat that each of (L,) token ids belongs to: (L,) int, index into PARTS.

    These are the system turn, visual tokens, the rest of the user's turn (an item's own text and the prompt's line),
    and the assistant's header.
    """
    tokenizer, ids = embedder.processor.tokenizer, np.asarray(ids)
    turns = np.cumsum(ids == tokenizer.convert_tokens_to_ids(TURN_START))
    parts = np.full(len(ids), PARTS.index("user"))
    parts[turns == turns[-1]] = PARTS.index("assistant")
    if embedder.prompt.system:
        parts[turns == 1] = PARTS.index("system")
    parts[ids == embedder.model.config.image_token_id] = PARTS.index("image")
    return parts


@torch.inference_mode()
def attention_shares(embedder: Embedder, items: Sequence[Embeddable], role: Role = "query") -> np.ndarray:
    """How the pooled token's attention divides over the chat's parts; ValueError for an item embedded in two passes.

    Returns (N, layers, len(PARTS)) float64, means over heads; the parts of an item's layer sum to 1.
    """
    inputs, _ = embedder.inputs(items, role)
    if len(inputs) != len(items):
        raise ValueError(f"prompt {embedder.prompt.name!r} embeds image and text apart: give items with one of the two")
    shares = []
    for one, tokens in zip(inputs, embedder.tokenize(inputs), strict=True):
        pixels = embedder.pixels([one.source] if one.source is not None else [])
        pixels = {key: value.to(embedder.device) for key, value in pixels.items()}
        ids, is_flat = torch.tensor([tokens.ids], device=embedder.device), not embedder.images.has_markers
        with _recorded_weights(embedder) as weights:
            hidden_states(embedder.model, ids, **pixels, has_flat_positions=is_flat)
        last = np.stack([layer[0, :, -1].float().mean(0).cpu().numpy() for layer in weights])  # (layers, L)
        is_part = part_of_tokens(embedder, tokens.ids)[:, None] == np.arange(len(PARTS))
        shares.append(last.astype(np.float64) @ is_part)
    return np.array(shares)


def compare_attention(
    embedder: Embedder, prompts: Sequence[str], pairs: Sequence[tuple[Item, Item]], store: Store
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Attention shares of images and of captions under several prompts (not the embedder's own).

    Returns by prompt and kind ("image" or "caption") one record a layer, with an estimate in percent for each part.
    """
    digests = item_digests(item for pair in pairs for item in pair)
    found: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for name in prompts:
        prompted = embedder.with_prompt(name)
        for kind, items in zip(("image", "caption"), zip(*pairs, strict=True), strict=True):
            key = {**prompted.key("query"), "attention of": [digests[item] for item in items]}
            key["attention code"] = code_fingerprint("evaluation.attention")
            found.setdefault(name, {})[kind] = store.json(key, lambda e=prompted, i=items: _by_layer(e, i))
    return found


def _by_layer(embedder: Embedder, items: Sequence[Item]) -> list[dict[str, Any]]:
    shares = attention_shares(embedder, items)  # (N, layers, parts)
    return [
        {part: vars(estimate({part: shares[:, layer, index]})) for index, part in enumerate(PARTS)}
        for layer in range(shares.shape[1])
    ]
