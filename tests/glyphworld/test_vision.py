import random

import pytest
import torch

from g2e_lib.glyphworld.batches import conversation_image
from g2e_lib.glyphworld.model import build_model
from g2e_lib.glyphworld.recipe import Recipe
from g2e_lib.glyphworld.scenes import Scene, Thing
from g2e_lib.glyphworld.vision import _drawn, cell_labels, pretrain_vision
from g2e_lib.glyphworld.vocabulary import COLOURS, OBJECTS
from g2e_lib.qwen2vl import PACKED_ATTENTION, encode_images


def test_cell_labels():
    scene = Scene("gray", (Thing(1, "sun", "red"),))
    sun, red = OBJECTS.index("sun"), list(COLOURS).index("red")
    assert cell_labels(scene) == [(60, 10, 1, 0), (sun, red, 1, 1), (60, 10, 1, 2), (60, 10, 1, 3)]
    assert cell_labels(scene, place=1) == [(sun, red, 1, 4)]


def test_vision_phase_learns_and_standardizes(untrained):
    _, processor = untrained
    model = build_model(processor.tokenizer, 0)
    model.model.visual.set_attn_implementation(PACKED_ATTENTION)
    recipe = Recipe(vision_steps=100, vision_images=8)
    (record,) = pretrain_vision(model, processor, recipe)
    assert record["loss"] < 8.4  # guessing by frequency alone costs 8.5
    rng = random.Random(0)
    images = [conversation_image(_drawn(rng)) for _ in range(32)]
    with torch.no_grad():
        tokens = encode_images(model.model.visual, **processor.image_processor(images=images, return_tensors="pt"))
    assert float(tokens.norm(dim=1).mean()) == pytest.approx(1, abs=0.25)
