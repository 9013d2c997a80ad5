"""The blocked search against a full sort of exact similarities."""

import numpy as np
import pytest
from pairs import as_lists, random_pairs

from g2e_lib.backbone import nearest
from g2e_lib.backbone.nearest import Rows, Search, best_of_groups
from g2e_lib.saha import mine_clusters


def exact_cosines(rows, others):
    unit = [x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (rows, others)]
    return (unit[0] @ unit[1].T).astype(np.float32)


def searches(q, t):
    rows = Rows.checked(q, "queries"), Rows.checked(t, "targets")
    return Search(*rows), Search(*rows, device="cpu:0")  # the path of a GPU, run by torch on a CPU


@pytest.mark.parametrize("is_unit", [True, False])
@pytest.mark.parametrize("is_coarse", [True, False])
@pytest.mark.parametrize("count", [1, 5, 80, 299, 300, 1000])
def test_the_nearest_equal_a_full_sort(count, is_coarse, is_unit):
    q, t, _ = random_pairs(1, 50, 300, 6, is_coarse)
    if is_unit:
        q, t = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, t))
    similarity, rows = exact_cosines(q, t), np.array([3, 17, 40])
    for search in searches(q, t):
        found = list(search.nearest(rows, count))
        assert len(found) == 3
        for row, (targets, cosines) in zip(rows, found, strict=True):
            np.testing.assert_allclose(cosines, similarity[row, targets], atol=1e-6)
            assert len(set(targets.tolist())) == len(targets) == min(count, 300)
            assert cosines[-1] >= np.sort(similarity[row])[::-1][len(targets) - 1] - 1e-6
            order = np.lexsort((targets, -cosines))
            assert order.tolist() == list(range(len(targets)))  # nearest first, ties by lower row


def test_equal_targets_tie_exactly():
    q = np.random.default_rng(0).normal(size=(4, 33)).astype(np.float32)
    for search in searches(q, np.repeat(q[:1], 50, axis=0)):
        for targets, _ in search.nearest(np.arange(4), 7):
            assert targets.tolist() == list(range(7))


def test_blocks_and_group_maxima_do_not_change_the_clusters(monkeypatch):
    pairs = random_pairs(0, 700, 500, 8, is_coarse=False)
    expected = as_lists(mine_clusters(*pairs, 2, 2))
    for least, most in ((1, 1), (7, 7), (700, 700)):
        monkeypatch.setattr(nearest, "MIN_BLOCK", least)
        monkeypatch.setattr(nearest, "MAX_BLOCK", most)
        assert as_lists(mine_clusters(*pairs, 2, 2)) == expected


def test_torch_mines_alike():
    for is_coarse in (True, False):
        pairs = random_pairs(7, 300, 200, 6, is_coarse)
        assert as_lists(mine_clusters(*pairs, 3, 2, device="cpu:0")) == as_lists(mine_clusters(*pairs, 3, 2))


def test_rows_used_before_their_turn_are_not_visited():
    q, t, _ = random_pairs(2, 100, 30, 6, is_coarse=False)
    used, visited = np.zeros(100, dtype=bool), []
    for row, targets in searches(q, t)[0].unused(used, 4):
        visited.append(row)
        assert len(targets) == 4
        used[row : row + 3] = True
    assert visited == list(range(0, 100, 3))


@pytest.mark.parametrize("is_coarse", [True, False])
def test_the_best_of_each_group(is_coarse):
    q, _, group_of = random_pairs(3, 200, 20, 6, is_coarse)
    members = np.argsort(group_of, kind="stable")
    best, cosines = best_of_groups(Rows.checked(q, "queries"), 5, members, group_of[members])
    similarity = exact_cosines(q, q)[5]
    for group, row, cosine in zip(np.unique(group_of), best, cosines, strict=True):
        within = np.flatnonzero(group_of == group)
        assert group_of[row] == group
        assert cosine == pytest.approx(similarity[within].max(), abs=1e-6)
        assert not (q[within[within < row]] == q[row]).all(1).any()  # ties: the first
    nothing = np.empty(0, dtype=int)
    assert [len(x) for x in best_of_groups(Rows.checked(q, "queries"), 5, nothing, nothing)] == [0, 0]
