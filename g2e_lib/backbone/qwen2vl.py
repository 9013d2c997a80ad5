"""Run an unmodified Qwen2-VL on a batch without Python loops over its images.

transformers computes vision attention image by image, unless flash-attention is installed, and positions row by row;
for small images that costs more than the arithmetic. Here both are batched, through transformers' own interface.
"""

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, DynamicCache, Qwen2VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_outputs import BaseModelOutputWithPooling

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
    """Bidirectional attention within each image of a packed sequence, in the form of transformers' interface.

    Query, key and value are (1, heads, patches, head size), the result is (1, patches, heads, head size);
    `image_lengths` are the patches of each image, in order. Without them this is one plain sdpa call.
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
    """Run a Qwen2-VL vision tower, its attention packed or not, on images: (visual tokens, D), in their order.

    `pixel_values` are (patches, patch dimension) float, all images one after the other; `image_grid_thw` (images, 3)
    int64, frames, rows and columns of patches.
    """
    packing = {}
    if visual.config._attn_implementation == PACKED_ATTENTION:
        lengths = tuple(image_grid_thw.prod(1).tolist())
        total = torch.tensor([0, sum(lengths)], dtype=torch.int32, device=pixel_values.device)
        packing = {"cu_seqlens": total, "image_lengths": lengths}  # one segment: the function splits it itself
    return visual(pixel_values, grid_thw=image_grid_thw, **packing).pooler_output


def position_ids(input_ids: Tensor, image_grid_thw: Tensor | None, image_token_id: int, merge_size: int) -> Tensor:
    """Qwen2-VL's positions for right-padded rows with at most one image each; equal to the model's get_rope_index.

    Text counts up in all three components. The visual tokens of an image share their time component, and have row and
    column in the other two; text after them goes on from the largest. `input_ids` are (B, L) int64, `image_grid_thw`
    (images, 3) int64 in row order, `merge_size` patches a visual token, per side.

    Returns:
        (3, B, L) int64: time, row and column.
    """
    length = input_ids.shape[1]
    index = torch.arange(length, device=input_ids.device)
    if image_grid_thw is None:
        return index.expand(3, *input_ids.shape)
    is_visual = input_ids == image_token_id
    has_image = is_visual.any(1)
    start, count = is_visual.int().argmax(1, keepdim=True), is_visual.sum(1, keepdim=True)  # (B, 1)
    grid = torch.ones(len(input_ids), 2, dtype=torch.long, device=input_ids.device)
    grid[has_image] = image_grid_thw[:, 1:] // merge_size
    rows, columns = grid[:, :1], grid[:, 1:]
    within = index - start  # (B, L), the visual token's number where there is one
    after = torch.where(has_image[:, None] & (index >= start + count), torch.maximum(rows, columns) - count, 0)
    visual = torch.stack((start.expand_as(within), start + within // columns, start + within % columns))
    return torch.where(is_visual, visual, index + after)


Prefix = list[tuple[Tensor, Tensor]]  # keys and values of each layer, (1, heads, P, head size)


def prefix_length(prefix: Prefix | None) -> int:
    """P, how many tokens a prefix stands for; 0 without one."""
    return prefix[0][0].shape[2] if prefix else 0


def encode_prefix(model: Qwen2VLForConditionalGeneration, ids: list[int]) -> Prefix:
    """Run the text that many rows begin with, P tokens without an image, once for `hidden_states`."""
    input_ids = torch.tensor([ids], device=model.device)
    positions = position_ids(input_ids, None, model.config.image_token_id, merge_size=1)
    types = torch.zeros_like(input_ids, dtype=torch.int32)
    output = model.model(input_ids=input_ids, position_ids=positions, mm_token_type_ids=types, use_cache=True)
    return [(layer.keys, layer.values) for layer in output.past_key_values.layers]


def hidden_states(
    model: Qwen2VLForConditionalGeneration,
    input_ids: Tensor,
    pixel_values: Tensor | None = None,
    image_grid_thw: Tensor | None = None,
    prefix: Prefix | None = None,
    image_features: Tensor | None = None,
    has_flat_positions: bool = False,
) -> Tensor:
    """The last layer's states after the final norm; no vocabulary logits, no other layer's states.

    Rows are padded on the right, where causal attention never looks, so no attention mask is needed.

    Args:
        model: the generative model.
        input_ids: (B, L) int64, right-padded, at most one image a row.
        pixel_values: (patches, patch dimension) float, of all images in row order.
        image_grid_thw: (images, 3) int64.
        prefix: what encode_prefix made of the first P ids, which all rows share; they are not run again.
        image_features: (visual tokens, D), what encode_images made of the images, instead of `pixel_values`.
        has_flat_positions: number visual tokens as if they were text, instead of by time, row and column.

    Returns:
        (B, L - P, D) in the model's dtype; meaningless where the input is padding.
    """
    images: dict[str, object] = {}
    if pixel_values is not None:
        image_features = encode_images(model.model.visual, pixel_values.to(model.model.visual.dtype), image_grid_thw)
    if image_features is not None:
        images = {
            "mm_encoder_outputs": {"image": BaseModelOutputWithPooling(pooler_output=(image_features,))},
            "image_grid_thw": image_grid_thw,
        }
    image_token_id, merge_size = model.config.image_token_id, model.config.vision_config.spatial_merge_size
    positions = position_ids(input_ids, None if has_flat_positions else image_grid_thw, image_token_id, merge_size)
    start, cache = prefix_length(prefix), None
    if prefix:
        cache = DynamicCache()
        for layer, states in enumerate(prefix):
            cache.update(*(one.expand(len(input_ids), -1, -1, -1) for one in states), layer)
    output = model.model(
        input_ids=input_ids[:, start:],
        position_ids=positions[:, :, start:],
        mm_token_type_ids=(input_ids[:, start:] == image_token_id).int(),
        past_key_values=cache,
        use_cache=cache is not None,
        **images,
    )
    return output.last_hidden_state


# --- which inputs run together -------------------------------------------------------------------------------------

MIN_SHARING, MIN_PREFIX = 8, 8  # inputs and tokens; below, running a common beginning once does not pay


def shared_prefix(ids: Sequence[list[int]], image_token_id: int) -> list[int]:
    """The text tokens that all inputs begin with, where running them once pays; else none."""
    if len(ids) < MIN_SHARING:
        return []
    common = os.path.commonprefix(list(ids))[: min(map(len, ids)) - 1]  # works on lists of anything
    common = common[: common.index(image_token_id)] if image_token_id in common else common
    return common if len(common) >= MIN_PREFIX else []


def group_size(lengths: Iterable[int], budget: int | None, min_fill: float) -> int:
    """How many of the next inputs run together, at least one, given the tokens of each, longest first.

    `budget` bounds the tokens of the group, padding included; the shortest has at least `min_fill` of the longest
    one's.

    >>> group_size([10, 9, 8, 4], budget=None, min_fill=0.75), group_size([10, 9, 8, 4], budget=25, min_fill=0)
    (3, 2)
    """
    longest = count = 0
    for length in lengths:
        longest = longest or length
        if count and (length < min_fill * longest or (budget is not None and (count + 1) * longest > budget)):
            break
        count += 1
    return count


def last_states(
    model: Qwen2VLForConditionalGeneration,
    ids: Sequence[list[int]],
    pad_token_id: int,
    images: dict[str, Tensor],
    prefix: Prefix | None,
    has_flat_positions: bool,
) -> Tensor:
    """The states at the last tokens of inputs that run together, (n, D); see hidden_states."""
    width = max(map(len, ids))
    padded = torch.tensor([one + [pad_token_id] * (width - len(one)) for one in ids], device=model.device)
    hidden = hidden_states(model, padded, prefix=prefix, has_flat_positions=has_flat_positions, **images)
    last = torch.tensor([len(one) - 1 for one in ids], device=padded.device) - prefix_length(prefix)
    return hidden[torch.arange(len(ids), device=padded.device), last]
