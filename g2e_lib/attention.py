"""Attention over many images in one call.

transformers runs Qwen2-VL's vision attention image by image unless flash-attention is installed, and a Python loop
over hundreds of small images costs more than their arithmetic. This registers, through transformers' own attention
interface, a function that batches the images of equal size; the model classes stay unmodified.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

PACKED_ATTENTION = "packed_sdpa"


def packed_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    image_lengths: tuple[int, ...] | None = None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """Bidirectional attention within each image of a packed sequence.

    Args:
        module: the attention layer, as the interface hands it over.
        query: (1, heads, patches, head size); key and value likewise.
        attention_mask: always None in a vision tower.
        image_lengths: patches of each image, in order; their sum is the packed length. None: one plain sdpa call.
        scaling: multiplies the scores; None is 1 / sqrt(head size).

    Returns:
        (1, patches, heads, head size), and None for the weights.
    """
    if image_lengths is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    starts, by_length, start = [], defaultdict(list), 0
    for index, length in enumerate(image_lengths):
        by_length[length].append(index)
        starts.append(start)
        start += length
    packed = torch.stack((query[0], key[0], value[0])).transpose(1, 2)  # (3, patches, heads, head size)
    output = torch.empty_like(packed[0])
    for length, members in by_length.items():
        rows = slice(None)  # one size only, the common case after sorting: views, no gather
        if len(by_length) > 1:
            offsets = torch.tensor([starts[i] for i in members], device=query.device)
            rows = (offsets[:, None] + torch.arange(length, device=query.device)).flatten()
        q, k, v = packed[:, rows].unflatten(1, (len(members), length)).transpose(2, 3)  # (images, heads, length, size)
        output[rows] = scaled_dot_product_attention(q, k, v, scale=scaling).transpose(1, 2).flatten(0, 1)
    return output[None], None


AttentionInterface.register(PACKED_ATTENTION, packed_attention_forward)


def encode_images(visual: nn.Module, pixel_values: Tensor, image_grid_thw: Tensor) -> Tensor:
    """Run a Qwen2-VL vision tower on a batch of images.

    Args:
        visual: the tower; packed attention is used if it was set on it, else transformers' own loop.
        pixel_values: (patches, patch dimension) float, all images one after the other.
        image_grid_thw: (images, 3) int64, frames, rows and columns of patches.

    Returns:
        (visual tokens, D), in the order of the images.
    """
    packing = {}
    if visual.config._attn_implementation == PACKED_ATTENTION:
        lengths = tuple(image_grid_thw.prod(1).tolist())
        total = torch.tensor([0, sum(lengths)], dtype=torch.int32, device=pixel_values.device)
        packing = {"cu_seqlens": total, "image_lengths": lengths}  # one segment: the function splits it itself
    return visual(pixel_values, grid_thw=image_grid_thw, **packing).pooler_output
