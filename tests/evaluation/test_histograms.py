import numpy as np

from g2e_lib.data.subsets import load_subsets
from g2e_lib.evaluation import negatives
from g2e_lib.glyphworld import benchmark
from g2e_lib.glyphworld.truth import Judge
from g2e_lib.miners import Miner
from g2e_lib.project.store import Store


class Known:
    """A judge who holds row 2 for right."""

    def is_right(self, query, other, of=None):
        return other == 2


def test_similarities_are_sorted_by_kind():
    queries = np.array([[1, 0], [0, 1], [1, 0]], dtype=np.float32)
    targets = np.array([[1, 0], [0, 1], [0.6, 0.8]], dtype=np.float32)
    counts = negatives.count_similarities(Known(), [[0, 1, 2]], np.arange(3), queries, targets)

    def cosine(kind):
        (place,) = np.flatnonzero(counts[kind])
        return negatives.EDGES[place], negatives.EDGES[place + 1]

    assert [sum(counts[kind]) for kind in negatives.KINDS] == [1, 1, 1]
    assert cosine("positive") == (0.98, 1.0)
    assert cosine("hard negative") == (0.0, 0.02)
    low, high = cosine("false negative")
    assert low <= 0.6 <= high


def test_false_negatives_agree_with_the_counted_ones(small_build, embedder, tmp_path):
    facts, store = benchmark.training_facts(small_build, ["CaptionT2I"]), Store(tmp_path)
    subsets, miners = load_subsets(small_build / "train", ["CaptionT2I"]), [Miner("topk", 3), Miner("saha", 3)]
    judges = {"CaptionT2I": Judge(small_build, "CaptionT2I")}
    judged = negatives.compare_miners(embedder, subsets, facts, judges, miners, store)
    for name, kinds in judged["similarities"]["miners"].items():
        anchors = judged["miners"][name]["groups"]["all"]["anchor"]["value"]
        share = sum(kinds["false negative"]) / (sum(kinds["false negative"]) + sum(kinds["hard negative"]))
        assert abs(100 * share - anchors) < 1e-3, name
