"""SugarCrepe-mini: true captions, false negatives, fair wording, and files like the published ones."""

import random

import pytest

from g2e_lib.data.sugarcrepe import SUGARCREPE, SUGARCREPE_PP, read_sugarcrepe, read_sugarcrepe_pp, with_images
from g2e_lib.glyphworld.crepe import (
    PLAIN,
    PLUS,
    build_crepe,
    make_row,
    make_rows,
    make_statements,
    prepare_crepe,
    say,
)
from g2e_lib.glyphworld.world.scenes import Scene, Statement, Thing, sample_scene

SCENE = Scene("white", (Thing(0, "sun", "red"), Thing(1, "star", "blue"), Thing(2, "king", "green")))


@pytest.mark.parametrize("subset", SUGARCREPE)
def test_captions_are_true_and_negatives_false(subset):
    rng = random.Random(subset)
    made = 0
    for _ in range(300):
        scene = sample_scene(rng, "validation")
        statements = make_statements(subset, scene, rng)
        row = make_row(subset, scene, rng)
        made += row is not None
        if row:
            assert len(set(row.values())) == 3
        if statements:
            assert statements[0].holds(scene)
    assert made > 100


def test_changes_by_hand():
    rng = random.Random(0)
    for subset in SUGARCREPE:
        for _ in range(20):
            made = make_statements(subset, SCENE, rng)
            if made is None:  # a swap would make a held-out combination
                continue
            statement, negative = made
            words, changed = say(statement, "{}").split(), say(negative, "{}").split()
            if subset.startswith("swap"):
                assert sorted(words) == sorted(changed)  # nothing but the order tells them apart
                assert words != changed
            elif subset.startswith("add"):
                assert len(changed) > len(words)
            elif subset != "replace_rel":
                assert len(changed) == len(words)
            assert not negative.holds(SCENE)


def test_a_relation_is_told_from_both_sides():
    rng = random.Random(0)
    for _ in range(20):
        row = make_row("replace_rel", SCENE, rng)
        first, second = (
            {w for w in row[k].split() if w in ("above", "below", "left", "right")} for k in ("caption", "caption2")
        )
        assert first.isdisjoint(second)


def test_positives_and_negatives_are_worded_alike():
    rows = [captions for _, captions in make_rows("swap_att", 60, "validation")]
    openings = [{row[key].split()[0] for row in rows} for key in ("caption", "negative_caption")]
    assert openings[0] == openings[1]
    assert say(Statement((Thing(None, "sun", None),)), "a picture of {}") == "a picture of a sun"


def test_files_are_read_by_the_readers_of_the_published_ones(tmp_path):
    build_crepe(tmp_path / "one", rows=8)
    build_crepe(tmp_path / "two", rows=8)
    one, two = (
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    root = tmp_path / "one"
    plain = {name: read_sugarcrepe(root / PLAIN, name, root / "images") for name in SUGARCREPE}
    plus = {name: read_sugarcrepe_pp(root / PLUS, name, root / "images") for name in SUGARCREPE_PP}
    for subsets in (plain, plus):
        kept, missing = with_images(subsets)
        assert missing == []
        assert {name: len(rows) for name, rows in kept.items()} == dict.fromkeys(subsets, 8)
    assert [row.captions[0] for row in plus["swap_obj"]] == [row.captions[0] for row in plain["swap_obj"]]


def test_scenes_are_those_of_the_split(tmp_path):
    for split in ("validation", "test"):
        assert {scene.split for scene, _ in make_rows("add_obj", 20, split)} == {split}
    first = prepare_crepe(tmp_path, rows=3)
    assert prepare_crepe(tmp_path, rows=3) == first
    assert not list(tmp_path.glob(".building-*"))
