import numpy as np

from g2e_lib.data.items import Item, Pair, unique
from g2e_lib.data.subsets import Subset
from g2e_lib.evaluation.negatives import AnnotatedJudge


def subset_of(*pairs):
    pairs = [Pair(Item(query), target if isinstance(target, Item) else Item(target)) for query, target in pairs]
    targets, positive_of = unique(pair.target for pair in pairs)
    return Subset("toy", pairs, targets, positive_of)


def test_right_answers_are_those_some_row_pairs():
    judge = AnnotatedJudge(subset_of(("a", "x"), ("a", "y"), ("b", "x"), ("c", "z")))
    found = [[judge.is_right(query, other) for other in range(4)] for query in range(4)]
    expected = [[1, 1, 1, 0], [1, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 1]]  # x and y for a, x for b, z for c
    np.testing.assert_array_equal(found, np.array(expected, dtype=bool))


def test_content_counts_not_names(tmp_path):
    for name in ("one.png", "two.png", "other.png"):
        (tmp_path / name).write_bytes(b"other" if name == "other.png" else b"same")
    one, two, other = (Item("", tmp_path / name) for name in ("one.png", "two.png", "other.png"))
    judge = AnnotatedJudge(subset_of(("a", one), ("b", two), ("c", other)))
    assert judge.is_right(0, 1)
    assert not judge.is_right(0, 2)
    assert judge.identity != AnnotatedJudge(subset_of(("a", one))).identity
