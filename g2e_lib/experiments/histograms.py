"""How similar a query is to its positive, to true negatives and to false ones, for each miner."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g2e_lib.data.subsets import Subset, subset_digest
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.annotated import AnnotatedJudge
from g2e_lib.experiments.negatives import CLUSTERS_JUDGED, CODE, judge_of
from g2e_lib.glyphworld.truth import Judge
from g2e_lib.miners import Miner
from g2e_lib.mining import embed_subset, labelled_subsets, mine_subset
from g2e_lib.project.config import code_fingerprint
from g2e_lib.project.store import Store

AnyJudge = Judge | AnnotatedJudge
EDGES = np.linspace(-1, 1, 101).round(2)  # of cosines
KINDS = ("positive", "hard negative", "false negative")


def count_similarities(
    judge: AnyJudge,
    clusters: Sequence[Sequence[int]],
    positive_of: np.ndarray,
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    seed: int = 0,
) -> dict[str, list[int]]:
    """Sort the anchors' similarities of up to CLUSTERS_JUDGED clusters, drawn at random, into bins.

    Args:
        judge: of the subset.
        clusters: rows, anchor first.
        positive_of: (N,) int, the target of each row.
        query_embeddings: (N, D) float32, unit rows.
        target_embeddings: (M, D) float32, unit rows.
        seed: which clusters are looked at.

    Returns:
        For each of KINDS the counts between EDGES: the anchor's positive, mined targets that are wrong answers to
        it, and mined targets that are in truth right ones.
    """
    chosen = random.Random(f"histograms {seed}").sample(range(len(clusters)), min(CLUSTERS_JUDGED, len(clusters)))
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in sorted(chosen):
        for row in clusters[number]:
            anchor = clusters[number][0]
            kind = KINDS[0] if row == anchor else KINDS[2] if judge.is_right(anchor, row) else KINDS[1]
            found[kind].append(float(target_embeddings[positive_of[row]] @ query_embeddings[anchor]))
    return {kind: np.histogram(np.clip(values, -1, 1), EDGES)[0].tolist() for kind, values in found.items()}


def similarity_histograms(
    root: Path,
    embedder: Embedder,
    subsets: Sequence[Subset],
    facts: Mapping[str, Mapping[str, Any]],
    miners: Sequence[Miner],
    store: Store,
) -> dict[str, Any]:
    """Histograms of similarities for every miner, all subsets together.

    Args:
        root: folder of the data the subsets come from.
        embedder: with its prompt.
        subsets: training subsets of MMEB-mini.
        facts: `meta_task` of each subset.
        miners: what to compare.
        store: keeps embeddings, clusters and counts.

    Returns:
        `edges` of the bins, and `miners`: by method the counts of each of KINDS.
    """
    labelled = labelled_subsets(facts)
    judges = {subset.name: judge_of(root, subset) for subset in subsets}
    result: dict[str, Any] = {"edges": EDGES.tolist(), "miners": {}}
    for miner in miners:
        totals = {kind: np.zeros(len(EDGES) - 1, dtype=int) for kind in KINDS}
        for subset in subsets:
            judge, device = judges[subset.name], embedder.device.type
            clusters = mine_subset(embedder, subset, miner, subset.name in labelled, store, device)["clusters"]
            key = {"histogram of": clusters, "subset": subset_digest(subset), "truth": judge.identity}
            key |= {"embedded": [embedder.key("query"), embedder.key("target")]}
            key["code"] = code_fingerprint((*CODE, "experiments/histograms.py"))
            counts = store.json(key, lambda s=subset, c=clusters, j=judge: _count(j, embedder, s, c, store))
            for kind in KINDS:
                totals[kind] += counts[kind]
        result["miners"][miner.method] = {kind: counts.tolist() for kind, counts in totals.items()}
    return result


def _count(
    judge: AnyJudge, embedder: Embedder, subset: Subset, clusters: Sequence[Sequence[int]], store: Store
) -> dict[str, list[int]]:
    embeddings = embed_subset(embedder, subset, store)
    return count_similarities(judge, clusters, subset.positive_of, *embeddings)
