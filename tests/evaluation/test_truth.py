"""The judge of negatives against the definition, and the comparison of miners."""

import itertools

import pytest
from PIL import Image

from g2e_lib.data.subsets import load_subsets
from g2e_lib.evaluation import negatives
from g2e_lib.glyphworld import benchmark, truth
from g2e_lib.glyphworld.world.scenes import matches
from g2e_lib.miners import Miner
from g2e_lib.project.store import Store


def test_every_positive_is_right(small_build):
    for name in benchmark.training_facts(small_build):
        judge = truth.Judge(small_build, name)
        assert all(judge.is_right(row, row) for row in range(30)), name


def test_identical_targets_are_right_and_judgements_repeat(small_build):
    judge = truth.Judge(small_build, "CaptionT2I")
    for a, b in itertools.product(range(30), repeat=2):
        assert judge.is_right(a, b) == matches(judge.queries[a], judge.targets[b]) == judge.is_right(a, b)


def test_counts_equal_a_count_by_hand(small_build):
    (subset,) = load_subsets(small_build / "train", ["ObjectKind"])
    judge = truth.Judge(small_build, "ObjectKind")
    labels = [judge.queries[row].text for row in range(30)]
    clusters = [[0, 1, 2, 3], [4, 5], list(range(6, 20))]
    found = negatives.count_false_negatives(judge, clusters, subset.positive_of)
    assert found["anchor"] == [[sum(labels[c[0]] == labels[o] for o in c[1:]), len(c) - 1] for c in clusters]
    for cluster, (false, total), (left, kept) in zip(clusters, found["trained"], found["masked"], strict=True):
        pairs = [(a, b) for a in cluster for b in cluster if a != b]
        same = sum(labels[a] == labels[b] for a, b in pairs)
        assert (false, total) == (same, len(pairs))
        assert (left, kept) == (0, total - same)  # a label is right only where the target is identical


def test_no_truth_no_judgement(small_build):
    with pytest.raises(ValueError, match="only GlyphWorld's training subsets"):
        truth.Judge(small_build, "RelationQA")


def test_miners_are_compared(small_build, embedder, tmp_path):
    names = ["ObjectName", "CaptionT2I", "Crop"]
    facts, store = benchmark.training_facts(small_build, names), Store(tmp_path)
    subsets = load_subsets(small_build / "train", names)
    miners = [Miner("random", 3), Miner("topk", 3), Miner("saha", 3)]
    judges = {name: truth.Judge(small_build, name) for name in names}
    result = negatives.compare_miners(embedder, subsets, facts, judges, miners, store)
    assert set(result["miners"]) == {"random", "topk", "saha"}
    assert result["groups"][negatives.REPEATED] == ["ObjectName"]
    assert result["miners"]["topk"]["hardness"] > result["miners"]["random"]["hardness"]
    saha = result["miners"]["saha"]["groups"]["all"]["trained"]["value"]
    topk = result["miners"]["topk"]["groups"]["all"]["trained"]["value"]
    assert result["differences"]["topk"]["all"]["value"] == pytest.approx(topk - saha, abs=1e-3)
    assert negatives.compare_miners(embedder, subsets, facts, judges, miners, store) == result


def test_explanation_tells_the_truth(small_build, embedder, tmp_path):
    (subset,) = load_subsets(small_build / "train", ["CaptionT2I"])
    store, results = Store(tmp_path / "store"), tmp_path / "results"
    judge = truth.Judge(small_build, "CaptionT2I")
    explained = negatives.explain_anchor(embedder, subset, judge, 0, 3, 2, store, results)
    anchor, steps = explained["anchor"], explained["steps"]
    assert anchor["text"] == subset.pairs[0].query.text
    own = [step for step in steps if step["fate"] == "own positive"]
    assert all(step["is_right"] for step in own)
    assert {step["fate"] for step in steps} <= {"kept", "too similar in query space", "own positive", "not looked at"}
    for step in steps:
        kept, original = (
            Image.open(path) for path in (results / step["target_image"], subset.targets[step["target"]].image)
        )
        assert kept.tobytes() == original.convert("RGB").tobytes()


def test_unknown_training_subsets_are_named(small_build):
    with pytest.raises(ValueError, match="unknown training subset 'RelationQA': choose among ObjectName"):
        benchmark.training_facts(small_build, ["RelationQA"])
