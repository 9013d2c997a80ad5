"""The miners SaHa is compared with against their definitions, and miners of one's own."""

import inspect
from dataclasses import asdict, replace

import numpy as np
import pytest
from pairs import as_lists, random_pairs

from g2e_lib import miners
from g2e_lib.miners import MINERS, Miner
from g2e_lib.saha import mine_clusters


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Miners that a test adds are gone after it."""
    monkeypatch.setattr(miners, "MINERS", dict(MINERS))


def test_all_have_one_signature():
    assert list(MINERS) == ["random", "topk", "threshold", "saha_no_filter", "saha"]
    for name, miner in MINERS.items():
        assert getattr(miners, name) is miner
        first, options = list(inspect.signature(miner).parameters.values())[:4], miner.__kwdefaults__
        assert [p.name for p in first] == ["query_embeddings", "target_embeddings", "positive_of", "top_k"]
        assert set(inspect.signature(miner).parameters) == {p.name for p in first} | set(options)


@pytest.mark.parametrize("count", [40, 600])  # of targets; of many, most near ones are dropped
def test_topk_and_threshold_equal_their_definitions(count):
    q, t, positive_of = random_pairs(3, 90, count, 5, is_coarse=False)
    similarity = (q / np.linalg.norm(q, axis=1, keepdims=True)) @ (t / np.linalg.norm(t, axis=1, keepdims=True)).T
    has_owner = np.isin(np.arange(count), positive_of)
    for method, margin in (("topk", np.inf), ("threshold", 0.1)):
        clusters = MINERS[method](q, t, positive_of, 3)
        assert [cluster[0] for cluster in clusters] == list(range(90))
        for row, cluster in enumerate(clusters):
            order = np.argsort(-similarity[row], kind="stable")
            allowed = similarity[row] <= similarity[row, positive_of[row]] + margin
            expected = [j for j in order if allowed[j] and has_owner[j] and j != positive_of[row]][:3]
            assert positive_of[cluster[1:]].tolist() == expected


def test_random_rows_are_others_and_repeat_by_seed():
    q, t, positive_of = random_pairs(4, 50, 20, 5, is_coarse=False)
    first, same, other = (as_lists(Miner("random", 6, seed=seed).mine(q, t, positive_of)) for seed in (0, 0, 1))
    assert first == same != other
    assert all(len(set(cluster)) == 7 for cluster in first)
    assert as_lists(Miner("random").mine(q[:1], t, positive_of[:1])) == [[0]]


def test_owners_are_drawn_by_seed():
    pairs = random_pairs(4, 200, 20, 5, is_coarse=False)
    first, same, other = (as_lists(Miner("topk", 6, seed=seed).mine(*pairs)) for seed in (0, 0, 1))
    assert first == same != other


def test_methods_differ_where_they_should():
    pairs = random_pairs(5, 200, 150, 8, is_coarse=False)
    filtered, unfiltered = Miner("saha", 3).mine(*pairs), Miner("saha_no_filter", 3).mine(*pairs)
    assert as_lists(filtered) == as_lists(mine_clusters(*pairs, 3)) != as_lists(unfiltered)
    assert as_lists(Miner("saha", 3).mine(*pairs, is_labelled=True)) == as_lists(unfiltered)
    first_phase = Miner("saha", 3, 1, use_second_phase=False).mine(*pairs)
    assert as_lists(first_phase) == as_lists(mine_clusters(*pairs, 3, 1, use_second_phase=False))


def test_unknown_names_and_bad_settings():
    with pytest.raises(ValueError, match="unknown miner 'bm25': choose one of random, topk"):
        Miner("bm25")
    pairs = random_pairs(5, 20, 15, 8, is_coarse=False)
    for method in MINERS:
        with pytest.raises(ValueError, match="top_k is 0, but a cluster needs at least 1 hard negative"):
            Miner(method, top_k=0).mine(*pairs)


# --- a miner of one's own ------------------------------------------------------------------------------------------


def neighbours(query_embeddings, target_embeddings, positive_of, top_k):
    return [[row, *range(row + 1, min(row + 1 + top_k, len(positive_of)))] for row in range(len(positive_of) - 1)]


def test_a_function_serves_as_a_name_does():
    pairs = random_pairs(5, 5, 4, 8, is_coarse=False)
    miner = Miner(neighbours, 2)
    assert miner.mine(*pairs, is_labelled=True) == [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4]]
    assert miner.method == "neighbours"
    assert miner == Miner("neighbours", 2)
    assert replace(miner, top_k=1).mine(*pairs)[0] == [0, 1]


def test_options_it_names_are_given_to_it():
    def told(query_embeddings, target_embeddings, positive_of, top_k, *, seed=0, is_labelled=False, strength=3):
        return [top_k, seed, is_labelled, strength]

    assert Miner(told, 2, seed=7).mine(None, None, None, is_labelled=True) == [2, 7, True, 3]


def test_its_code_is_part_of_what_identifies_it():
    assert asdict(Miner("saha"))["source"] == asdict(Miner(miners.topk))["source"] == ""

    def mine(query_embeddings, target_embeddings, positive_of, top_k):
        return []

    first = Miner(mine)

    def mine(query_embeddings, target_embeddings, positive_of, top_k):
        return [[0]]

    assert Miner(mine).source != first.source != ""


def test_names_that_a_miner_cannot_have():
    def topk(query_embeddings, target_embeddings, positive_of, top_k):
        return []

    for function, name in ((topk, "topk"), (lambda *_: [], "<lambda>")):
        with pytest.raises(ValueError, match=f"a miner of yours cannot be called '{name}'"):
            Miner(function)
    exec(compile("def unread(*_): return []", "<nowhere>", "exec"), scope := {})
    with pytest.raises(ValueError, match="cannot read the source of miner 'unread'"):
        Miner(scope["unread"])
