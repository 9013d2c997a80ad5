import random

import pytest
import torch

from g2e_lib.backbone.qwen2vl import PACKED_ATTENTION, encode_images
from g2e_lib.glyphworld.pretraining.batches import conversation_image
from g2e_lib.glyphworld.pretraining.model import build_model, build_tokenizer
from g2e_lib.glyphworld.pretraining.recipe import Recipe
from g2e_lib.glyphworld.pretraining.vision import CLASSES, CellHead, _drawn, cell_labels, class_words, pretrain_vision
from g2e_lib.glyphworld.world.scenes import Scene, Thing
from g2e_lib.glyphworld.world.vocabulary import COLOURS, OBJECTS


def test_cell_labels():
    scene = Scene("gray", (Thing(1, "sun", "red"),))
    sun, red = OBJECTS.index("sun"), list(COLOURS).index("red")
    assert cell_labels(scene) == [(60, 10, 1, 0), (sun, red, 1, 1), (60, 10, 1, 2), (60, 10, 1, 3)]
    assert cell_labels(scene, place=1) == [(sun, red, 1, 4)]


def test_a_cell_is_named_in_the_words_of_the_language_model():
    tokenizer = build_tokenizer([f"{name} {name}" for names in CLASSES for name in names] * 50)
    words = class_words(torch.eye(len(tokenizer)), tokenizer)
    ids = {*tokenizer("red").input_ids, *tokenizer(" red").input_ids}
    red = words[len(OBJECTS) + 1 + list(COLOURS).index("red")]
    assert set(red.nonzero()[:, 0].tolist()) == ids
    assert float(red.sum()) == pytest.approx(1)
    things = tuple(Thing(place, name, "red") for place, name in enumerate(OBJECTS[:4]))
    labels = torch.tensor(cell_labels(Scene("gray", things)))
    starts = torch.tensor([0, *(len(names) for names in CLASSES[:-1])]).cumsum(0)
    embeddings = torch.nn.functional.normalize(torch.randn(len(tokenizer), 2000, generator=torch.manual_seed(0)))
    words = class_words(embeddings, tokenizer)
    described = torch.stack([words[starts + label].sum(0) for label in labels])  # each cell's token: its words
    loss, right = CellHead(words)(20 * described, labels)
    assert float(right) == 1
    assert loss.item() < 0.1


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
