import json
import random
from itertools import product

import pytest

from g2e_lib.glyphworld.world.scenes import (  # fmt: skip
    Crop,
    Label,
    Scene,
    Statement,
    Thing,
    matches,
    meaning_from_record,
    meaning_record,
    sample_scene,
)
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, GLYPH_OF, HELD_OUT, KINDS, OBJECTS

SUN_OVER_KING = Scene("white", (Thing(0, "sun", "red"), Thing(2, "king", "blue")))


def test_size_of_the_world():
    assert len(OBJECTS) == len(set(OBJECTS)) == len(set(GLYPH_OF.values())) == 60
    assert (len(KINDS), len(COLOURS), len(BACKGROUNDS)) == (13, 10, 4)
    assert len(HELD_OUT) == 60
    assert {name for name, _ in HELD_OUT} == set(OBJECTS)


def test_splits_are_shares_of_content_and_never_change():
    rng = random.Random(0)
    scenes = [sample_scene(rng, None) for _ in range(4000)]
    shares = {split: sum(s.split == split for s in scenes) / 4000 for split in ("train", "validation", "test")}
    assert shares["train"] == pytest.approx(0.797, abs=0.03)
    assert shares["validation"] == pytest.approx(0.102, abs=0.02)
    assert SUN_OVER_KING.content == "white | top left: red sun, bottom left: blue king"
    assert SUN_OVER_KING.split == "train"  # forever: models are trained on it


def test_sampling_obeys_split_count_and_held_out_combinations():
    rng = random.Random(1)
    for split, held_out in product(("train", "validation", "test"), (False, True)):
        for _ in range(50):
            scene = sample_scene(rng, split, held_out=held_out)
            assert scene.split == split
            assert all(((t.name, t.colour) in HELD_OUT) == held_out for t in scene.things)
            assert [t.place for t in scene.things] == sorted({t.place for t in scene.things})
    assert all(len(sample_scene(rng, None, count=3).things) == 3 for _ in range(20))


@pytest.mark.parametrize(
    ("relation", "expected"), [("above", None), ("below", "king"), ("left of", None), ("right of", None)]
)
def test_relations(relation, expected):
    found = SUN_OVER_KING.related(SUN_OVER_KING.things[0], relation)
    assert (found and found.name) == expected


@pytest.mark.parametrize(
    ("statement", "is_true"),
    [
        (Statement((Thing(None, "sun", "red"),)), True),
        (Statement((Thing(None, "sun", "blue"),)), False),
        (Statement((Thing(None, "sun", None), Thing(None, "sun", None))), False),  # two different suns are claimed
        (Statement((Thing(None, None, "blue"), Thing(None, "sun", None))), True),
        (Statement((Thing(2, "sun", None),)), False),
        (Statement((), background="white", count=2), True),
        (Statement((), background="sand"), False),
        (Statement((), count=1), False),
        (Statement((Thing(None, "king", None), Thing(None, "sun", None)), relations=((0, "below", 1),)), True),
        (Statement((Thing(None, "sun", None), Thing(None, "king", None)), relations=((0, "below", 1),)), False),
    ],
)
def test_statements(statement, is_true):
    assert statement.holds(SUN_OVER_KING) == is_true
    assert matches(statement, SUN_OVER_KING) == matches(SUN_OVER_KING, statement) == is_true


def test_other_meanings_match_when_equal():
    assert matches(SUN_OVER_KING, SUN_OVER_KING)
    assert not matches(SUN_OVER_KING, Scene("sand", SUN_OVER_KING.things))
    assert SUN_OVER_KING.crop(SUN_OVER_KING.things[0]) == Crop("white", "sun", "red")
    assert not matches(Label("sun"), Crop("white", "sun", "red"))


def test_meanings_survive_json():
    relation = Statement((Thing(None, "sun", None), Thing(None, "king", "blue")), count=2, relations=((0, "above", 1),))
    for meaning in (SUN_OVER_KING, relation, Label("red"), Crop("white", "sun", "red")):
        assert meaning_from_record(json.loads(json.dumps(meaning_record(meaning)))) == meaning
    assert meaning_record(relation)["type"] == "Claim"  # as published builds have it
