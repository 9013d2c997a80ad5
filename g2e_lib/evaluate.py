"""Scores with intervals: MMEB's hit@1, averages over datasets, paired comparisons, and the modality gap.

A result is first of all a vector of right and wrong answers a dataset, from which everything else follows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from g2e_lib.data import EvalRow, Item, unique
from g2e_lib.embedder import Embedder
from g2e_lib.store import Store

logger = logging.getLogger(__name__)

BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95
SHARD = 4096  # items encoded between two writes to the store: what a killed run loses at most


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval and the number of queries behind it."""

    value: float
    low: float
    high: float
    n: int


def hit_at_one(
    query_embeddings: np.ndarray, target_embeddings: np.ndarray, candidates: Sequence[Sequence[int]]
) -> np.ndarray:
    """Tell for each query whether its right candidate beats all others; a tie is wrong.

    Args:
        query_embeddings: (N, D) float32, unit rows.
        target_embeddings: (M, D) float32, unit rows.
        candidates: for each query its candidates' rows in `target_embeddings`, the right one first.

    Returns:
        (N,) bool.

    >>> q, t = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    >>> hit_at_one(q, t, [[0, 1], [0, 1]]).tolist()
    [True, False]
    """
    right = np.empty(len(candidates), dtype=bool)
    for i, rows in enumerate(candidates):
        scores = target_embeddings[np.asarray(rows)] @ query_embeddings[i]
        right[i] = len(scores) == 1 or scores[0] > scores[1:].max()
    return right


def encode_cached(
    embedder: Embedder,
    items: Sequence[Item],
    role: str,
    store: Store,
    digests: Mapping[Item, str],
    show_progress: bool = True,
) -> np.ndarray:
    """Embed items through the store, in shards, so that a killed run resumes at the last shard.

    Args:
        embedder: with its prompt.
        items: to embed, in any order, without repetitions.
        role: "query" or "target".
        store: keeps the shards.
        digests: for each item a digest of its content (see `item_digests`).
        show_progress: draw a progress bar for shards that are computed.

    Returns:
        (N, D) float32, unit rows, in the order of `items`.
    """
    parts = []
    for start in range(0, len(items), SHARD):
        shard = items[start : start + SHARD]
        key = {**embedder.key(role), "items": [digests[item] for item in shard]}
        parts.append(store.array(key, lambda s=shard: embedder.encode(s, role, show_progress=show_progress)))
    return np.concatenate(parts) if parts else np.empty((0, embedder.dimension), dtype=np.float32)


def evaluate_mmeb(
    embedder: Embedder,
    datasets: Mapping[str, Sequence[EvalRow]],
    store: Store,
    digests: Mapping[Item, str],
    show_progress: bool = True,
) -> dict[str, np.ndarray]:
    """Score an embedder on MMEB evaluation sets; items shared by several are encoded once.

    Args:
        embedder: with its prompt.
        datasets: rows by dataset name.
        store: keeps embeddings.
        digests: content digests of all items.
        show_progress: draw progress bars.

    Returns:
        For each dataset (N,) bool, right or wrong by query.
    """
    queries, query_rows = unique(row.query for rows in datasets.values() for row in rows)
    targets, target_rows = unique(item for rows in datasets.values() for row in rows for item in row.candidates)
    query_embeddings = encode_cached(embedder, queries, "query", store, digests, show_progress)
    target_embeddings = encode_cached(embedder, targets, "target", store, digests, show_progress)
    right, query_start, target_start = {}, 0, 0
    for name, rows in datasets.items():
        candidates = []
        for row in rows:
            candidates.append(target_rows[target_start : target_start + len(row.candidates)])
            target_start += len(row.candidates)
        embeddings = query_embeddings[query_rows[query_start : query_start + len(rows)]]
        right[name] = hit_at_one(embeddings, target_embeddings, candidates)
        query_start += len(rows)
        chance = float(np.mean([1 / len(row.candidates) for row in rows]))
        if is_at_chance(right[name], chance):
            logger.warning("%s: hit@1 %.1f %% is no better than chance (%.1f %%)", name, 100 * right[name].mean(), 100 * chance)
    return right


def is_at_chance(right: np.ndarray, chance: float) -> bool:
    """Tell whether a score's interval reaches down to chance level.

    Args:
        right: (N,) bool.
        chance: expected score of guessing, 0 to 1.
    """
    return estimate({"": right}).low / 100 <= chance


def _resampled_means(right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of bootstrap samples of one dataset's queries: (BOOTSTRAP_SAMPLES,) float64."""
    rows = rng.integers(0, len(right), size=(BOOTSTRAP_SAMPLES, len(right)))
    return right[rows].mean(axis=1)


def estimate(right: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """The mean over datasets of their scores, in percent, with a bootstrap over the queries of each dataset.

    Args:
        right: for each dataset (N,) bool or float; datasets weigh the same whatever their N, as in MMEB.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no dataset.
    """
    return _estimate({name: np.asarray(values, dtype=np.float64) for name, values in right.items()}, seed)


def paired_difference(
    right: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], seed: int = 0
) -> Estimate:
    """How much better one method is than another on the same queries, in points, with a paired bootstrap.

    Args:
        right: for each dataset (N,) bool of the method.
        baseline: the same of the other method; the same datasets and queries in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: the two were not scored on the same queries.
    """
    if {n: len(r) for n, r in right.items()} != {n: len(r) for n, r in baseline.items()}:
        raise ValueError("the two methods were not scored on the same datasets and queries: score both again")
    return _estimate({n: right[n].astype(np.float64) - baseline[n] for n in right}, seed)


def _estimate(values: Mapping[str, np.ndarray], seed: int) -> Estimate:
    if not values:
        raise ValueError("there is no dataset to average over: name at least one")
    rng = np.random.default_rng(seed)
    samples = np.mean([_resampled_means(values[name], rng) for name in sorted(values)], axis=0)
    low, high = np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    mean = np.mean([one.mean() for one in values.values()])
    n = sum(len(one) for one in values.values())
    return Estimate(*(round(float(100 * x), 4) for x in (mean, low, high)), n)


def modality_gap(image_embeddings: np.ndarray, text_embeddings: np.ndarray) -> dict[str, float]:
    """How far images and texts lie apart.

    Args:
        image_embeddings: (N, D) float32, unit rows.
        text_embeddings: (N, D) float32, unit rows; row i describes image i.

    Returns:
        centroid_distance: Euclidean distance of the two means; paired_cosine: mean cosine of pairs;
        unpaired_cosine: mean cosine of images with other images' texts.
    """
    similarity = image_embeddings @ text_embeddings.T
    n = len(similarity)
    paired = float(np.trace(similarity)) / n
    return {
        "centroid_distance": float(np.linalg.norm(image_embeddings.mean(0) - text_embeddings.mean(0))),
        "paired_cosine": paired,
        "unpaired_cosine": float((similarity.sum() - paired * n) / (n * (n - 1))),
    }


def project(embeddings: np.ndarray) -> np.ndarray:
    """The first two principal components: (N, 2) float32, signs fixed so that a rerun draws the same picture.

    Args:
        embeddings: (N, D) float32.
    """
    centred = embeddings - embeddings.mean(0)
    _, _, components = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    components = components[:2] * np.sign(components[:2][np.arange(2), np.abs(components[:2]).argmax(1)])[:, None]
    return (centred @ components.T).astype(np.float32)
