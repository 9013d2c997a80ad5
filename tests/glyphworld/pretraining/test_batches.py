import random

import pytest
import torch
from torch.nn.functional import cross_entropy

from g2e_lib.backbone.qwen2vl import PACKED_ATTENTION
from g2e_lib.glyphworld.pretraining.batches import IGNORED, batches, conversation_image, forward, tokenize
from g2e_lib.glyphworld.pretraining.corpus import sample_conversation


def test_loss_is_that_of_the_stock_model(untrained):
    """Chunked, packed and sorted, against one conversation at a time through the unmodified class."""
    model, processor = untrained
    rng = random.Random(1)
    conversations = [sample_conversation(rng) for _ in range(12)]
    total = count = 0.0
    model.model.visual.set_attn_implementation("sdpa")
    with torch.no_grad():
        for conversation in conversations:
            image = conversation_image(conversation)
            pixels = processor.image_processor(images=[image], return_tensors="pt") if image else {}
            visual = int(pixels["image_grid_thw"].prod()) // 4 if image else 0
            ids, labels = (torch.tensor([x]) for x in tokenize(conversation, processor, visual))
            types = (ids == model.config.image_token_id).int()
            output = model(input_ids=ids, labels=labels, mm_token_type_ids=types, **pixels)
            n = int((labels[:, 1:] != IGNORED).sum())
            total, count = total + float(output.loss) * n, count + n
        model.model.visual.set_attn_implementation(PACKED_ATTENTION)
        ours = ours_count = 0.0
        for batch in batches(conversations, processor, chunk_tokens=300):
            logits, wanted = forward(model, batch)
            ours += float(cross_entropy(logits, wanted, reduction="sum", ignore_index=IGNORED))
            ours_count += int((wanted != IGNORED).sum())
    assert ours_count == count
    assert ours / ours_count == pytest.approx(total / count, abs=1e-4)
