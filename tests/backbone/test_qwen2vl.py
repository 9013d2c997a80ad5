import pytest
import torch
from transformers import Qwen2VLForConditionalGeneration

from g2e_lib.backbone.qwen2vl import PACKED_ATTENTION, encode_images, hidden_states, position_ids
from g2e_lib.project.config import resolve_model

GRIDS = torch.tensor([[1, 4, 4], [1, 2, 6], [1, 4, 4], [1, 2, 2]])  # frames, rows, columns of patches


@pytest.fixture(scope="module")
def models():
    base = resolve_model("glyphworld-base")
    packed = {"text_config": "sdpa", "vision_config": PACKED_ATTENTION}
    load = Qwen2VLForConditionalGeneration.from_pretrained
    return load(base, dtype=torch.float32), load(base, dtype=torch.float32, attn_implementation=packed)


def pixels(model):
    vision = model.config.vision_config
    size = 3 * vision.temporal_patch_size * vision.patch_size**2
    return torch.randn(int(GRIDS.prod(1).sum()), size, generator=torch.Generator().manual_seed(0))


def test_packed_attention_equals_the_stock_loop_over_images(models):
    stock, packed = models
    with torch.no_grad():
        expected, found = (encode_images(m.model.visual, pixels(m), GRIDS) for m in (stock, packed))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_packed_attention_without_lengths_is_plain_attention(models):
    stock, packed = models
    one = GRIDS[:1]
    with torch.no_grad():
        expected, found = (m.model.visual(pixels(m)[:16], grid_thw=one).pooler_output for m in (stock, packed))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def batch(model):
    """Rows: text; image of 2x2 tokens then text; text around an image of 1x3; image of 2x2; image of 1x1; padded."""
    image, counts = model.config.image_token_id, [None, 4, 3, 4, 1]
    rows = [[5, 6, 7]] + [[5 + i] * i + [image] * count + [9] * (6 - i) for i, count in enumerate(counts[1:])]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def test_positions_equal_the_models_own(models):
    model = models[0]
    ids, mask = batch(model)
    types = (ids == model.config.image_token_id).int()
    expected, _ = model.model.get_rope_index(ids, types, image_grid_thw=GRIDS, attention_mask=mask)
    found = position_ids(ids, GRIDS, model.config.image_token_id, merge_size=2)
    torch.testing.assert_close(found * mask, expected * mask)


def test_states_equal_the_models_own_where_there_is_no_padding(models):
    stock, packed = models
    ids, mask = batch(stock)
    types = (ids == stock.config.image_token_id).int()
    with torch.no_grad():
        arguments = {"pixel_values": pixels(stock), "image_grid_thw": GRIDS, "mm_token_type_ids": types}
        expected = stock.model(input_ids=ids, attention_mask=mask, **arguments).last_hidden_state
        found = hidden_states(packed, ids, pixels(stock), GRIDS)
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-5, rtol=0)
