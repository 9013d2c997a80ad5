import json
import random
import shutil
from collections import Counter

import pyarrow.parquet as pq
import pytest
from conftest import SMALL
from PIL import Image

from g2e_lib.data.mmeb import read_mmeb_eval, read_mmeb_train
from g2e_lib.glyphworld import benchmark
from g2e_lib.glyphworld.benchmark import eval_rows, train_pairs
from g2e_lib.glyphworld.datasets import DATASETS, Picture, World
from g2e_lib.glyphworld.world.scenes import Crop, Scene, matches, meaning_from_record
from g2e_lib.glyphworld.world.vocabulary import HELD_OUT

META_TASKS = {"classification", "vqa", "retrieval", "grounding"}
SIZE = benchmark.Size(queries=60, pairs=200, candidates=30, families=40)


@pytest.fixture(scope="module")
def worlds():
    made = {split: World(random.Random(split), split, SIZE.families, views=2) for split in ("train", "test")}
    return made["train"], made["test"]


@pytest.fixture(scope="module")
def rows(worlds):
    """The rows of every evaluation dataset, by name."""
    return {name: eval_rows(dataset, worlds[1], SIZE) for name, dataset in DATASETS.items()}


@pytest.fixture(scope="module")
def pairs(worlds):
    """The pairs of every training subset, by name."""
    return {name: train_pairs(d, worlds[0], SIZE) for name, d in DATASETS.items() if d.distribution == "IND"}


def test_the_shape_the_issue_asks_for():
    assert len(DATASETS) >= 14
    for distribution in ("IND", "OOD"):
        assert {d.meta_task for d in DATASETS.values() if d.distribution == distribution} == META_TASKS
    assert sum(d.distribution == "IND" for d in DATASETS.values()) >= 6
    assert all(d.why for d in DATASETS.values())
    full = benchmark.Size()
    assert full.queries >= 300
    assert full.pairs >= 1200


@pytest.mark.parametrize("name", DATASETS)
def test_exactly_one_right_answer(rows, name):
    assert len({(q.text, q.picture) for q, _ in rows[name]}) == SIZE.queries
    for query, candidates in rows[name]:
        right = [matches(query.meaning, c.meaning) for c in candidates]
        assert right[0]
        assert not any(right[1:])
        assert len({(c.text, c.picture) for c in candidates}) == len(candidates)
        assert len(candidates) >= min(10, SIZE.candidates)


@pytest.mark.parametrize("name", ["CaptionI2T", "CaptionT2I", "Edited", "Crop"])
def test_hard_distractors_are_among_the_candidates(rows, name):
    """Some wrong candidate shares more with the right one than a random one does, in nearly every row."""
    closest = []
    for _, (right, *wrong) in rows[name]:
        features = benchmark._features(right.meaning)
        shared = sorted(len(features & benchmark._features(side.meaning)) for side in wrong)
        closest.append(shared[-1] - shared[len(shared) // 2])
    assert sum(gap > 0 for gap in closest) > 0.9 * len(closest)


def test_the_unchanged_image_is_a_candidate_of_an_edit(rows):
    for query, candidates in rows["Edited"]:
        assert query.picture in [side.picture for side in candidates[1:]]


def scenes_of(side):
    return {side.picture.scene.content} if side.picture else set()


def test_train_and_test_share_no_scene(rows, pairs):
    train = {scene for some in pairs.values() for pair in some for side in pair for scene in scenes_of(side)}
    asked = (side for some in rows.values() for query, candidates in some for side in (query, *candidates))
    test = {scene for side in asked for scene in scenes_of(side)}
    assert len(train) > 100
    assert len(test) > 100
    assert not train & test


def test_ood_is_a_real_shift(rows, pairs):
    for query, _ in rows["ColouredObject"]:
        assert all((t.name, t.colour) in HELD_OUT for t in query.picture.scene.things)
    assert all(query.picture.style.noise for query, _ in rows["ObjectRotated"])
    assert not {q.text for q, _ in pairs["ColourQA"]} & {q.text for q, _ in rows["RelationQA"]}
    words = [len(q.text.split()) for q, _ in rows["LongCaptionT2I"]]
    short = [len(q.text.split()) for q, _ in pairs["CaptionT2I"]]
    assert sum(words) / len(words) > 1.5 * sum(short) / len(short)


def test_training_pairs_hold_and_repeat(pairs):
    """Repetitions are what makes false negatives: different rows whose targets mean the same."""
    for name, some in pairs.items():
        assert all(matches(query.meaning, target.meaning) for query, target in some)
        assert max(Counter(target.meaning for _, target in some).values()) > 1, name


def test_files_are_mmebs_own_format(small_build):
    schema = pq.read_schema(next((small_build / "eval" / "ColourQA").glob("*.parquet")))
    assert schema.names == ["qry_text", "qry_img_path", "tgt_text", "tgt_img_path"]
    schema = pq.read_schema(next((small_build / "train" / "ColourQA").glob("*.parquet")))
    assert schema.names == ["qry", "qry_image_path", "pos_text", "pos_image_path", "neg_text", "neg_image_path"]


def test_what_is_read_back_is_what_was_built(small_build):
    rows = read_mmeb_eval(small_build / "eval", "Crop", small_build)
    world = World(random.Random("test world 1"), "test", SMALL.families, views=1)
    built = eval_rows(DATASETS["Crop"], world, SMALL)
    for row, (query, candidates) in zip(rows, built, strict=True):
        assert row.query.text == query.text
        with Image.open(row.query.image) as image:
            assert image.size == (64, 64)
        with Image.open(row.candidates[0].image) as image:
            assert image.size == (32, 32)
        assert [item.image.name for item in row.candidates] == [c.picture.path.split("/")[1] for c in candidates]


def test_truth_lines_up_with_training_rows(small_build):
    pairs = read_mmeb_train(small_build / "train", "CaptionT2I", small_build)
    lines = (small_build / "train" / "CaptionT2I" / "truth.jsonl").read_text().splitlines()
    assert len(pairs) == len(lines) == SMALL.pairs
    for pair, line in zip(pairs, lines, strict=True):
        record = json.loads(line)
        query, target = (meaning_from_record(record[side]) for side in ("query", "target"))
        assert isinstance(target, Scene)
        assert matches(query, target)
        assert all(t.name in pair.query.text for t in target.things)


def test_rebuilding_gives_the_same_bytes(small_build, tmp_path):
    again = benchmark.build(tmp_path, SMALL, show_progress=False)
    assert again == json.loads((small_build / "manifest.json").read_text())
    assert benchmark.identity(tmp_path) == benchmark.identity(small_build)


def test_damage_is_found_and_named(small_build, tmp_path):
    copy = shutil.copytree(small_build, tmp_path / "copy")
    assert benchmark.verify(copy) == []
    (copy / "train" / "Crop" / "truth.jsonl").write_text("")
    next((copy / "images").iterdir()).unlink()
    assert benchmark.verify(copy)[0] == "train/Crop/truth.jsonl differs"
    with pytest.raises(
        ValueError, match="is damaged: train/Crop/truth.jsonl differs; images differ: .* again with --fresh"
    ):
        benchmark.check(copy)


def test_a_build_that_differs_from_the_repositorys_is_refused(small_build, monkeypatch, tmp_path):
    manifest = json.loads((small_build / "manifest.json").read_text())
    known = tmp_path / "checksums.json"
    monkeypatch.setattr(benchmark, "CHECKSUMS", known)
    known.write_text(json.dumps([{"size": manifest["size"], "identity": benchmark.identity(small_build)}]))
    assert "with the checksum in the repository" in benchmark.check(small_build)
    known.write_text(json.dumps([{"size": manifest["size"], "identity": "0" * 16}]))
    with pytest.raises(ValueError, match="was built differently here"):
        benchmark.check(small_build)
    known.write_text("[]")
    assert "has no checksum in the repository" in benchmark.check(small_build)


def test_an_interrupted_build_is_never_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(Picture, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        benchmark.prepare(tmp_path, SMALL)
    assert list(tmp_path.iterdir()) == []


def test_prepare_builds_once(tmp_path, monkeypatch):
    monkeypatch.setattr(Picture, "save", lambda picture, root: (root / picture.path).touch())
    root = benchmark.prepare(tmp_path, SMALL)
    stamp = (root / "manifest.json").stat().st_mtime_ns
    assert benchmark.prepare(tmp_path, SMALL) == root
    assert (root / "manifest.json").stat().st_mtime_ns == stamp
    assert benchmark.prepare(tmp_path, SMALL, is_fresh=True) == root
    assert (root / "manifest.json").stat().st_mtime_ns != stamp


def test_too_small_a_world_says_so():
    world = World(random.Random(0), "test", 1, views=1)
    with pytest.raises(ValueError, match="CaptionI2T has only .* distinct queries, not 60: ask for fewer"):
        eval_rows(DATASETS["CaptionI2T"], world, SIZE)


def test_unknown_dataset_lists_the_known(small_build):
    with pytest.raises(ValueError, match="unknown subset 'Crops' .*: choose one of CaptionI2T"):
        benchmark.load(small_build, ["Crops"])


def test_crops_know_no_place():
    assert not hasattr(Crop("white", "sun", "red"), "place")
