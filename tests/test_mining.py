"""Subsets, clusters on disk, and their ties to data and model."""

import json
from dataclasses import replace

import numpy as np
import pytest

from g2e_lib import miners
from g2e_lib.data.items import Item
from g2e_lib.data.subsets import data_digest, find_subset, load_subsets
from g2e_lib.miners import Miner
from g2e_lib.mining import describe_clusters, embed_subset, labelled_subsets, load_clusters, mine_subset, save_clusters
from g2e_lib.project.store import Store
from g2e_lib.saha import mine_clusters

NAMES = ("ObjectName", "CaptionT2I")


@pytest.fixture
def subsets(small_build):
    return load_subsets(small_build / "train", NAMES)


@pytest.fixture
def saved(subsets, embedder, tmp_path):
    store = Store(tmp_path / "store")
    mined = {s.name: mine_subset(embedder, s, Miner("saha", 3), False, store)["clusters"] for s in subsets}
    path = tmp_path / "clusters.json"
    save_clusters(path, mined, subsets, Miner("saha", 3), embedder)
    return path, mined


def test_subsets_know_their_targets(subsets, small_build):
    for subset in subsets:
        assert len(set(subset.targets)) == len(subset.targets)
        assert [subset.targets[j] for j in subset.positive_of] == [pair.target for pair in subset.pairs]
    (half,) = load_subsets(small_build / "train", NAMES[:1], fraction=0.5)
    assert half.pairs == subsets[0].pairs[:15]


def test_mining_goes_through_the_store(subsets, embedder, tmp_path, monkeypatch):
    store, subset = Store(tmp_path), subsets[1]
    first = mine_subset(embedder, subset, Miner("saha", 3), False, store)
    queries, targets = embed_subset(embedder, subset, store)
    expected = [c.tolist() for c in mine_clusters(queries, targets, subset.positive_of, 3)]
    assert first["clusters"] == expected
    monkeypatch.setattr(Miner, "mine", None)
    assert mine_subset(embedder, subset, Miner("saha", 3), False, store) == first


def test_a_subset_without_negatives_is_named(subsets, embedder, tmp_path):
    subset = subsets[0]
    alone = replace(subset, pairs=subset.pairs[:1], targets=subset.targets[:1], positive_of=subset.positive_of[:1])
    with pytest.raises(ValueError, match=r"saha finds no negatives in subset 'ObjectName' \(1 pairs, 1 distinct"):
        mine_subset(embedder, alone, Miner("saha", 3), False, Store(tmp_path))
    with pytest.raises(ValueError, match="there is no subset 'Crop' here: choose one of ObjectName, CaptionT2I"):
        find_subset(subsets, "Crop")


def test_labelled_sets_are_those_of_classification():
    assert {"ImageNet-1K", "N24News", "Country211"} <= labelled_subsets()
    assert "MSCOCO_t2i" not in labelled_subsets()
    assert labelled_subsets({"A": {"meta_task": "classification"}, "B": {"meta_task": "vqa"}}) == {"A"}


def test_description_of_clusters_by_hand(subsets):
    subset = replace(subsets[0], positive_of=np.array([0, 1, 2, 0]), pairs=subsets[0].pairs[:4])
    queries = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    targets = np.float32([[1, 0, 0], [0.6, 0.8, 0], [0, 0, 1]])
    described = describe_clusters([[0, 1, 2], [3, 1]], queries, subset, targets)
    assert described["hardness"] == pytest.approx([0.3, 0.6])
    assert [described[name] for name in ("clusters", "rows", "rows_of", "mean_size")] == [2, 4, 4, 2.5]
    assert described["positive"] == pytest.approx(1)
    assert described["passes"] == pytest.approx(2 * 5 / 4)


def test_clusters_survive_a_round_trip(saved, subsets, embedder):
    path, mined = saved
    assert load_clusters(path, subsets, embedder.identity) == mined
    assert load_clusters(path, subsets[:1]) == {NAMES[0]: mined[NAMES[0]]}
    lines = path.read_text().splitlines()
    assert max(map(len, lines)) < 200  # a cluster a line
    assert str(path.parent) not in path.read_text()


def test_a_miner_of_ones_own_is_recorded_under_its_name(subsets, embedder, tmp_path, monkeypatch):
    monkeypatch.setattr(miners, "MINERS", dict(miners.MINERS))
    calls = []

    def next_row(query_embeddings, target_embeddings, positive_of, top_k):
        calls.append(len(positive_of))
        return [(row, row + 1) for row in range(0, len(positive_of) - 1, 2)]

    store, path, miner = Store(tmp_path / "store"), tmp_path / "clusters.json", Miner(next_row)
    mined = {s.name: mine_subset(embedder, s, miner, False, store)["clusters"] for s in subsets}
    assert mined["ObjectName"][0] == [0, 1]
    assert mine_subset(embedder, subsets[0], Miner(next_row), False, store)["clusters"] == mined[subsets[0].name]
    assert len(calls) == 2  # the store had the third
    save_clusters(path, mined, subsets, miner, embedder)
    assert load_clusters(path, subsets, embedder.identity) == mined
    assert json.loads(path.read_text())["miner"]["method"] == "next_row"


def test_clusters_of_others_are_refused(saved, subsets, small_build):
    path, _ = saved
    with pytest.raises(ValueError, match="were mined with another model"):
        load_clusters(path, subsets, "another")
    (fewer,) = load_subsets(small_build / "train", NAMES[:1], fraction=0.5)
    with pytest.raises(ValueError, match=r"from other data of 'ObjectName' \(30 rows, here 15\): mine again"):
        load_clusters(path, [fewer])
    (crop,) = load_subsets(small_build / "train", ["Crop"])
    with pytest.raises(ValueError, match="have no subset 'Crop'"):
        load_clusters(path, [crop])
    document = json.loads(path.read_text())
    document["subsets"]["ObjectName"]["clusters"][0][0] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match="do not match their checksum"):
        load_clusters(path, subsets)
    with pytest.raises(ValueError, match="were mined under prompt 'hierarchical', not 'none'"):
        load_clusters(path, subsets, prompt="none")
    (path.with_name("other.json")).write_text("{}")
    with pytest.raises(ValueError, match="is no file of clusters"):
        load_clusters(path.with_name("other.json"), subsets)
    with pytest.raises(ValueError, match="run notebook 02_mining first"):
        load_clusters(path.with_name("none.json"), subsets)


def test_data_digest_sees_content_and_order(subsets):
    first = subsets[0]
    swapped = replace(first, pairs=[first.pairs[1], first.pairs[0], *first.pairs[2:]])
    changed = replace(first, pairs=[replace(first.pairs[0], target=Item("other")), *first.pairs[1:]])
    assert len({data_digest([subset]) for subset in (first, swapped, changed)}) == 3


def test_empty_subset(small_build, monkeypatch):
    monkeypatch.setattr("g2e_lib.data.subsets.read_mmeb_train", lambda *_: [])
    with pytest.raises(ValueError, match="subset 'Crop' in .* has no pairs: leave it out"):
        load_subsets(small_build / "train", ["Crop"])
