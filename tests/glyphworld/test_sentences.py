"""Paraphrases and caption retrieval: true by construction, of the right split, the same every time."""

import random

import pytest

from g2e_lib.data.subsets import load_subsets
from g2e_lib.glyphworld.sentences import (
    CAPTIONS,
    PARAPHRASES,
    captioned_scenes,
    paraphrases,
    prepare_paraphrases,
    prepare_retrieval,
)
from g2e_lib.glyphworld.world.scenes import sample_scene
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS


def test_paraphrases_are_distinct_sentences_about_the_same():
    pairs = paraphrases(200, "train")
    assert len(set(pairs)) == 200
    assert pairs == paraphrases(200, "train")
    assert not set(pairs) & set(paraphrases(200, "validation"))
    for one, other in pairs:
        assert one != other
        names = [{w for w in text.replace(",", " ").replace(".", " ").split() if w in COLOURS} for text in (one, other)]
        assert names[0] <= names[1] | set(BACKGROUNDS)
        assert names[1] <= names[0] | set(BACKGROUNDS)


def test_paraphrases_are_a_training_subset(tmp_path):
    root = prepare_paraphrases(tmp_path, 30)
    assert prepare_paraphrases(tmp_path, 30) == root
    (subset,) = load_subsets(root, [PARAPHRASES])
    assert [(p.query.text, p.target.text) for p in subset.pairs] == paraphrases(30, "train")
    assert not list(tmp_path.glob(".building-*"))


@pytest.mark.parametrize("style", ["short", "long"])
def test_a_caption_is_true_of_one_picture_only(style):
    found = captioned_scenes(style, 60, "validation")
    assert {scene.split for scene, _ in found} == {"validation"}
    assert len({text for _, text in found}) == 60
    rng = random.Random(f"retrieval {style} validation 1")

    statements = {}  # the same draws again, with their statements
    while len(statements) < 60:
        scene = sample_scene(rng, "validation")
        text, statement = CAPTIONS[style](scene, rng)
        if (scene, text) in found:
            statements[text] = statement
    for text, statement in statements.items():
        assert [other for other, said in found if statement.holds(other)] == [dict((t, s) for s, t in found)[text]]


def test_retrieval_asks_both_ways_among_all(tmp_path):
    rows = prepare_retrieval(tmp_path, 8)
    assert list(rows) == ["short_i2t", "short_t2i", "long_i2t", "long_t2i"]
    for name, some in rows.items():
        assert len(some) == 8
        for row in some:
            assert len(row.candidates) == len(set(row.candidates)) == 8
            assert (row.query.image is not None) == name.endswith("i2t")
            images = [item.image for item in (row.query, *row.candidates) if item.image]
            assert all(image.is_file() for image in images)
    pairs = [{(row.query, row.candidates[0]) for row in rows[f"short_{way}"]} for way in ("i2t", "t2i")]
    assert pairs[0] == {(image, text) for text, image in pairs[1]}
