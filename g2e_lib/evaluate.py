"""Scores with intervals: MMEB's hit@1, averages over datasets, paired comparisons, and the modality gap.

A result is first of all a vector of right and wrong answers a dataset, from which everything else follows.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from g2e_lib.data import EvalRow, Item, item_digests, unique
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


def embedding_shards(
    embedder: Embedder, items: Sequence[Item], role: str, digests: Mapping[Item, str]
) -> list[tuple[dict[str, Any], Sequence[Item]]]:
    """The parts in which `encode_cached` embeds items, each with its key in the store.

    Args:
        embedder: with its prompt.
        items: to embed.
        role: "query" or "target".
        digests: for each item a digest of its content.
    """
    shards = [items[start : start + SHARD] for start in range(0, len(items), SHARD)]
    return [({**embedder.key(role), "items": [digests[item] for item in shard]}, shard) for shard in shards]


def encode_cached(
    embedder: Embedder,
    items: Sequence[Item],
    role: str,
    store: Store,
    digests: Mapping[Item, str] | None = None,
    show_progress: bool = True,
) -> np.ndarray:
    """Embed items through the store, in shards, so that a killed run resumes at the last shard.

    Args:
        embedder: with its prompt.
        items: to embed, in any order, without repetitions.
        role: "query" or "target".
        store: keeps the shards.
        digests: for each item a digest of its content, if known already (see `item_digests`).
        show_progress: draw a progress bar for shards that are computed.

    Returns:
        (N, D) float32, unit rows, in the order of `items`.
    """
    digests = item_digests(items) if digests is None else digests
    parts = []
    for key, shard in embedding_shards(embedder, items, role, digests):
        parts.append(store.array(key, lambda s=shard: embedder.encode(s, role, show_progress=show_progress)))
    return np.concatenate(parts) if parts else np.empty((0, embedder.dimension), dtype=np.float32)


def evaluate_mmeb(
    embedder: Embedder,
    datasets: Mapping[str, Sequence[EvalRow]],
    store: Store,
    digests: Mapping[Item, str] | None = None,
    show_progress: bool = True,
) -> dict[str, np.ndarray]:
    """Score an embedder on MMEB evaluation sets; items shared by several are encoded once.

    Args:
        embedder: with its prompt.
        datasets: rows by dataset name.
        store: keeps embeddings.
        digests: content digests of all items, if known already.
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
        chance = chance_level(rows)
        if is_at_chance(right[name], chance):
            logger.warning("%s: hit@1 %.1f %%, chance is %.1f %%", name, 100 * right[name].mean(), 100 * chance)
    return right


def chance_level(rows: Sequence[EvalRow]) -> float:
    """The expected score of guessing, 0 to 1."""
    return float(np.mean([1 / len(row.candidates) for row in rows]))


def is_at_chance(right: np.ndarray, chance: float) -> bool:
    """Tell whether a score's interval reaches down to chance level.

    Args:
        right: (N,) bool.
        chance: expected score of guessing, 0 to 1.
    """
    return estimate({"": right}).low / 100 <= chance


def _resampled_means(right: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of bootstrap samples of one dataset's queries: (BOOTSTRAP_SAMPLES,) float64.

    Drawing N queries with replacement draws a multinomial number of each distinct value, which is much faster.
    """
    values, counts = np.unique(right, return_counts=True)
    drawn = rng.multinomial(len(right), counts / len(right), size=BOOTSTRAP_SAMPLES)
    return drawn @ values.astype(np.float64) / len(right)


def estimate(right: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """The mean over datasets of their scores, in percent, with a bootstrap over the queries of each dataset.

    Args:
        right: for each dataset (N,) bool or float; datasets weigh the same whatever their N, as in MMEB.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no dataset.
    """
    return _estimate({name: np.asarray(values, dtype=np.float64) for name, values in right.items()}, seed)


def paired_difference(right: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
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


def _bounds(samples: np.ndarray) -> np.ndarray:
    """Both ends of the interval that bootstrap samples span: (2,) float64."""
    return np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])


def _estimate(values: Mapping[str, np.ndarray], seed: int) -> Estimate:
    if not values:
        raise ValueError("there is no dataset to average over: name at least one")
    rng = np.random.default_rng(seed)
    samples = np.mean([_resampled_means(values[name], rng) for name in sorted(values)], axis=0)
    low, high = _bounds(samples)
    mean = np.mean([one.mean() for one in values.values()])
    n = sum(len(one) for one in values.values())
    return Estimate(*(round(float(100 * x), 4) for x in (mean, low, high)), n)


def estimate_mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of any numbers in their own unit, with a bootstrap over them.

    Args:
        values: (N,) float.
        seed: of the bootstrap.

    >>> estimate_mean(np.array([2.0, 2.0]))
    Estimate(value=2.0, low=2.0, high=2.0, n=2)
    """
    low, high = _bounds(_resampled_means(values, np.random.default_rng(seed)))
    return Estimate(*(round(float(x), 6) for x in (values.mean(), low, high)), len(values))


Counts = Mapping[str, Sequence[Sequence[int]]]  # for each dataset [part, whole] of every unit, such as a cluster


def _ratio_samples(counts: Counts, rng: np.random.Generator) -> tuple[float, np.ndarray, int]:
    """The mean over datasets of sum(part) / sum(whole), bootstrap samples of it over units, and the number of units."""
    values, samples, n = [], [], 0
    for name in sorted(counts):
        units = np.array(counts[name], dtype=np.float64).reshape(-1, 2)
        if not units[:, 1].sum():
            continue
        distinct, times = np.unique(units, axis=0, return_counts=True)  # few: see _resampled_means
        drawn = rng.multinomial(len(units), times / len(units), size=BOOTSTRAP_SAMPLES) @ distinct
        values.append(units[:, 0].sum() / units[:, 1].sum())
        samples.append(drawn[:, 0] / np.maximum(drawn[:, 1], 1))
        n += len(units)
    if not values:
        raise ValueError("there is nothing to count: mine clusters with at least one negative")
    return float(np.mean(values)), np.mean(samples, axis=0), n


def _ratio_estimate(value: float, samples: np.ndarray, n: int) -> Estimate:
    return Estimate(*(round(float(100 * x), 4) for x in (value, *_bounds(samples))), n)


def estimate_ratio(counts: Counts, seed: int = 0) -> Estimate:
    """A share in percent, such as that of false negatives, with a bootstrap over units; datasets weigh the same.

    Args:
        counts: for each dataset [part, whole] of every unit.
        seed: of the bootstrap.

    Raises:
        ValueError: there is nothing to count.

    >>> estimate_ratio({"a": [[1, 4]], "b": [[0, 4]]}).value
    12.5
    """
    return _ratio_estimate(*_ratio_samples(counts, np.random.default_rng(seed)))


def difference_of_ratios(counts: Counts, subtracted: Counts, seed: int = 0) -> Estimate:
    """One share minus another, in points, over the datasets that have something to count in both.

    The units (such as clusters of two miners) are different ones, so both are resampled independently; n is their sum.

    Raises:
        ValueError: there is nothing to count.
    """
    rng = np.random.default_rng(seed)
    here, there = ({n for n, units in one.items() if sum(w for _, w in units)} for one in (counts, subtracted))
    counts, subtracted = ({n: one[n] for n in here & there} for one in (counts, subtracted))
    (one, one_samples, n), (other, other_samples, m) = _ratio_samples(counts, rng), _ratio_samples(subtracted, rng)
    return _ratio_estimate(one - other, one_samples - other_samples, n + m)


def group_names(info: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The averages MMEB reports: for each meta-task, IND, OOD and overall the datasets that enter.

    Args:
        info: for each dataset its `meta_task` and `distribution` ("IND" or "OOD").

    >>> group_names({"A": {"meta_task": "vqa", "distribution": "IND"}})
    {'vqa': ['A'], 'IND': ['A'], 'overall': ['A']}
    """
    groups: dict[str, list[str]] = {}
    for attribute in ("meta_task", "distribution"):
        for name, one in info.items():
            groups.setdefault(one[attribute], []).append(name)
    return {**groups, "overall": list(info)}


def summarize(
    right: Mapping[str, np.ndarray],
    info: Mapping[str, Mapping[str, Any]],
    baseline: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Estimates for every group of datasets: scores, or paired differences if there is a baseline.

    Args:
        right: for each dataset (N,) bool.
        info: `meta_task` and `distribution` of each dataset.
        baseline: the same queries scored with another method.
        seed: of the bootstrap.
    """
    summary = {}
    for group, names in group_names({name: info[name] for name in right}).items():
        ours = {name: right[name] for name in names}
        theirs = {name: baseline[name] for name in names} if baseline else None
        summary[group] = vars(paired_difference(ours, theirs, seed) if theirs else estimate(ours, seed))
    return summary


def describe_datasets(
    datasets: Mapping[str, Sequence[EvalRow]], info: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Meta-task, distribution, number of queries and chance level in percent of each dataset."""
    return {
        name: {
            "meta_task": info[name]["meta_task"],
            "distribution": info[name]["distribution"],
            "n": len(rows),
            "chance": round(100 * chance_level(rows), 4),
        }
        for name, rows in datasets.items()
    }


def score_prompts(
    embedder: Embedder,
    prompts: Sequence[str],
    datasets: Mapping[str, Sequence[EvalRow]],
    info: Mapping[str, Mapping[str, Any]],
    store: Store,
    baselines: Sequence[str] = ("none", "hierarchical"),
    seed: int = 0,
) -> dict[str, Any]:
    """hit@1 of one model under several prompts, also compared with each other query by query.

    Args:
        embedder: the model; its own prompt is not used.
        prompts: names.
        datasets: rows by dataset name.
        info: `meta_task` and `distribution` of each dataset.
        store: keeps embeddings.
        baselines: those of `prompts` that all others are compared with.
        seed: of the bootstrap.

    Returns:
        `datasets`: facts about each; `prompts`: for each prompt estimates by group and dataset, and `right`, the
        answers as a string of 0 and 1 for each dataset; `differences`: for each baseline, each other prompt's
        estimates by group.
    """
    digests = item_digests(item for rows in datasets.values() for row in rows for item in (row.query, *row.candidates))
    right = {name: evaluate_mmeb(embedder.with_prompt(name), datasets, store, digests) for name in prompts}
    described = describe_datasets(datasets, info)
    scores = {
        prompt: {
            "groups": summarize(one, info, seed=seed),
            "datasets": {name: vars(estimate({name: values}, seed)) for name, values in one.items()},
            "right": {name: "".join("01"[v] for v in values.astype(int)) for name, values in one.items()},
        }
        for prompt, one in right.items()
    }
    differences = {
        baseline: {
            prompt: summarize(right[prompt], info, right[baseline], seed) for prompt in prompts if prompt != baseline
        }
        for baseline in baselines
        if baseline in right
    }
    return {"datasets": described, "prompts": scores, "differences": differences}


def image_text_pairs(rows: Sequence[EvalRow], count: int) -> list[tuple[Item, Item]]:
    """Images and their captions, both bare, from the first rows of an image-to-text dataset.

    Raises:
        ValueError: a row has no query image, or a right candidate that is not text alone.
    """
    pairs = [(Item("", row.query.image), row.candidates[0]) for row in rows[:count]]
    if any(image.image is None or caption.image is not None for image, caption in pairs):
        raise ValueError("these rows are not image-to-text: choose a dataset such as CaptionI2T or MSCOCO_i2t")
    return pairs


def modality_panels(
    embedder: Embedder, prompts: Sequence[str], pairs: Sequence[tuple[Item, Item]], store: Store
) -> dict[str, dict[str, Any]]:
    """The modality gap under several prompts, with a picture of it.

    Args:
        embedder: the model; its own prompt is not used.
        prompts: names.
        pairs: (image, caption), both embedded as queries, where every prompt has its say at every level.
        store: keeps embeddings.

    Returns:
        For each prompt `gap` (see modality_gap) and (N, 2) lists `image`, `text`: their two principal components.
    """
    images, texts = (list(side) for side in zip(*pairs, strict=True))
    panels = {}
    for name in prompts:
        prompted = embedder.with_prompt(name)
        image, text = (encode_cached(prompted, side, "query", store) for side in (images, texts))
        points = project(np.concatenate((image, text))).round(4).tolist()
        panels[name] = {"gap": modality_gap(image, text), "image": points[: len(image)], "text": points[len(image) :]}
    return panels


def modality_gap(image_embeddings: np.ndarray, text_embeddings: np.ndarray, seed: int = 0) -> dict[str, dict[str, Any]]:
    """How far images and texts lie apart, with a bootstrap over the pairs.

    Args:
        image_embeddings: (N, D) float32, unit rows.
        text_embeddings: (N, D) float32, unit rows; row i describes image i.
        seed: of the bootstrap.

    Returns:
        Estimates, not in percent: `centroid_distance`, the Euclidean distance of the two means, and `paired_cosine`,
        the mean cosine of an image and its own text.
    """
    n = len(image_embeddings)
    difference = image_embeddings - text_embeddings  # the distance of the means is the length of its mean
    cosine = (image_embeddings * text_embeddings).sum(1)
    rows = np.random.default_rng(seed).integers(0, n, size=(BOOTSTRAP_SAMPLES, n))
    share = np.stack([np.bincount(sample, minlength=n) for sample in rows]) / n  # (samples, N), rows sum to 1
    samples = {"centroid_distance": np.linalg.norm(share @ difference, axis=1), "paired_cosine": share @ cosine}
    values = {"centroid_distance": np.linalg.norm(difference.mean(0)), "paired_cosine": cosine.mean()}
    gap = {}
    for name, value in values.items():
        low, high = _bounds(samples[name])
        gap[name] = vars(Estimate(*(round(float(x), 4) for x in (value, low, high)), n))
    return gap


def project(embeddings: np.ndarray) -> np.ndarray:
    """The first two principal components: (N, 2) float32, signs fixed so that a rerun draws the same picture.

    Args:
        embeddings: (N, D) float32.
    """
    centred = embeddings - embeddings.mean(0)
    _, _, components = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    components = components[:2] * np.sign(components[:2][np.arange(2), np.abs(components[:2]).argmax(1)])[:, None]
    return (centred @ components.T).astype(np.float32)
