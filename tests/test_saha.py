"""SaHa against a slow definition of its own, and worked examples."""

import subprocess
import sys

import numpy as np
import pytest
from pairs import as_lists, random_pairs

from g2e_lib.saha import explain_cluster, mine_clusters


def slow_definition(queries, targets, positive_of, top_k=15, pool_mult=3, filter_in_query_space=True, phases=2):
    """design.md, section 3, word for word: one row, one target, one owner at a time."""

    def unit(rows):
        rows = rows.astype(np.float64)
        return rows / np.sqrt((rows**2).sum(1, keepdims=True))

    queries, targets = unit(queries), unit(targets)
    cosine = lambda a, b: np.float32((a * b).sum())  # noqa: E731
    looked_at, pool_size = top_k * pool_mult, 2 * top_k * pool_mult
    used, reused, clusters = set(), set(), []
    for phase in range(1, phases + 1):
        for row in range(len(queries)):
            if row in used:
                continue
            similarity = [cosine(queries[row], target) for target in targets]
            pool = sorted(range(len(targets)), key=lambda j: (-similarity[j], j))[:pool_size]
            owners = []
            for target in pool:
                if target == positive_of[row] or len(owners) == looked_at * phase:
                    continue
                free = [o for o in range(len(queries)) if positive_of[o] == target]
                free = [o for o in free if o not in (used if phase == 1 else reused)]
                if free:
                    owners.append(min(free, key=lambda o: (-cosine(queries[row], queries[o]), o)))
            if not owners:
                continue
            used.add(row)
            if filter_in_query_space:
                owners.sort(key=lambda o: cosine(queries[row], queries[o]))
            used |= set(owners[:top_k])
            reused |= set(owners[:top_k]) if phase == 2 else set()
            clusters.append([row, *owners[:top_k]])
    return clusters


@pytest.mark.parametrize("is_coarse", [True, False])
@pytest.mark.parametrize("filter_in_query_space", [True, False])
@pytest.mark.parametrize(
    ("rows", "targets", "top_k", "pool_mult"),
    [(1, 1, 3, 2), (1, 5, 2, 2), (40, 40, 3, 2), (60, 7, 4, 1), (60, 25, 50, 3), (90, 30, 1, 1), (120, 90, 5, 3)],
)
def test_equals_the_slow_definition(rows, targets, top_k, pool_mult, filter_in_query_space, is_coarse):
    for seed in range(3):
        pairs = random_pairs(seed, rows, targets, 6, is_coarse)
        ours = mine_clusters(*pairs, top_k, pool_mult, filter_in_query_space)
        assert as_lists(ours) == slow_definition(*pairs, top_k, pool_mult, filter_in_query_space)
        only_first = mine_clusters(*pairs, top_k, pool_mult, filter_in_query_space, use_second_phase=False)
        assert as_lists(only_first) == slow_definition(*pairs, top_k, pool_mult, filter_in_query_space, phases=1)


def test_many_rows_equal_the_slow_definition():
    pairs = random_pairs(0, 700, 500, 8, is_coarse=False)
    assert as_lists(mine_clusters(*pairs, 2, 2)) == slow_definition(*pairs, 2, 2)


def test_repeated_targets_tie_by_row():
    queries = np.eye(4, dtype=np.float32)
    targets = np.repeat(np.float32([[1, 1, 1, 1]]), 4, axis=0)
    assert as_lists(mine_clusters(queries, targets, np.arange(4), top_k=2, pool_mult=1)) == [[0, 1, 2], [3, 0, 1]]


def test_a_toy_worked_by_hand():
    # Query 0 asks for target 0. Targets 1, 2, 3 are near, nearest first; 1 has the owners 1 and 4 (4 is more similar),
    # 2 the owner 2, whose query is the same as query 0: a false negative. The least similar owners are 3, then 4.
    queries = np.float32([[1, 0, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0], [0.6, 0, 0.8]])
    targets = np.float32([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.2, 0], [0.7, 0.3, 0]])
    clusters = mine_clusters(queries, targets, np.array([0, 1, 2, 3, 1]), top_k=2, pool_mult=2)
    assert clusters[0].tolist() == [0, 3, 4]
    near = mine_clusters(queries, targets, np.array([0, 1, 2, 3, 1]), top_k=2, pool_mult=2, filter_in_query_space=False)
    assert near[0].tolist() == [0, 4, 2]


def test_the_first_phase_uses_no_row_twice_and_clusters_are_mutually_wrong():
    q, t, positive_of = random_pairs(1, 300, 120, 8, is_coarse=False)
    clusters = mine_clusters(q, t, positive_of, 4, 2, use_second_phase=False)
    rows = np.concatenate(clusters)
    assert len(rows) == len(set(rows.tolist()))
    for cluster in mine_clusters(q, t, positive_of, 4, 2):
        assert len(set(positive_of[cluster].tolist())) == len(cluster)


def test_a_scale_of_rows_does_not_matter():
    q, t, positive_of = random_pairs(2, 80, 60, 8, is_coarse=False)
    nearly_unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, t)]
    for rows in nearly_unit:
        rows *= np.random.default_rng(0).uniform(0.9999, 1.0001, (len(rows), 1)).astype(np.float32)
    assert as_lists(mine_clusters(*nearly_unit, positive_of, 3, 2)) == slow_definition(*nearly_unit, positive_of, 3, 2)
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (q, t)]
    assert as_lists(mine_clusters(q, t, positive_of, 3, 2)) == as_lists(mine_clusters(*unit, positive_of, 3, 2))


def test_explanation_agrees_with_the_cluster():
    q, t, positive_of = random_pairs(6, 80, 60, 8, is_coarse=False)
    steps = explain_cluster(q, t, positive_of, 0, 3, 2)
    first = mine_clusters(q, t, positive_of, 3, 2)[0]
    assert {s.owner for s in steps if s.fate == "kept"} == set(first[1:].tolist())
    assert len(steps) == 12
    assert [s.target_cosine for s in steps] == sorted((s.target_cosine for s in steps), reverse=True)
    kept = [s.owner_cosine for s in steps if s.fate == "kept"]
    dropped = [s.owner_cosine for s in steps if s.fate == "too similar in query space"]
    assert max(kept) <= min(dropped)


# --- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top_k": 0}, "top_k is 0, but a cluster needs at least 1 hard negative"),
        ({"pool_mult": 0}, "pool_mult is 0"),
        ({"query_embeddings": np.empty((0, 4), np.float32)}, "query_embeddings has shape .* is it empty"),
        ({"query_embeddings": np.ones((3, 5), np.float32)}, "queries have 5 dimensions and targets 4"),
        ({"positive_of": np.array([0, 1, 9])}, "points outside of the 3 targets"),
        ({"positive_of": np.array([0.0, 1, 2])}, "must be 3 integers"),
    ],
)
def test_bad_input_is_one_clear_sentence(change, message):
    inputs = {
        "query_embeddings": np.ones((3, 4), np.float32),
        "target_embeddings": np.ones((3, 4), np.float32),
        "positive_of": np.arange(3),
    }
    with pytest.raises(ValueError, match=message):
        mine_clusters(**{**inputs, **change})


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_nan_is_named(value):
    targets = np.ones((5, 4), np.float32)
    targets[3] = value
    with pytest.raises(ValueError, match="row 3 of target_embeddings is zero or holds NaN"):
        mine_clusters(np.ones((5, 4), np.float32), targets, np.arange(5))


def test_a_row_to_explain_must_exist():
    q, t, positive_of = random_pairs(6, 8, 6, 4, is_coarse=False)
    with pytest.raises(ValueError, match="there is no row 8 to explain: rows go from 0 to 7"):
        explain_cluster(q, t, positive_of, 8)


def test_same_for_every_hash_seed():
    code = (
        "import numpy as np; from g2e_lib.saha import mine_clusters; r = np.random.default_rng(0);"
        "q, t = r.normal(size=(2, 60, 4)).astype('f4'); print([c.tolist() for c in mine_clusters(q, t, np.arange(60))])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
