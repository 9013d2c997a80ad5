"""Estimates with bootstrap intervals: means, paired differences, shares, averages over datasets."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from g2e_lib.project.bootstrap import BOOTSTRAP_SAMPLES, Estimate, bounds, percent_estimate, resampled_means


def estimate(right: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """The mean over datasets of their scores, in percent, with a bootstrap over the queries of each dataset.

    `right` has (N,) bool or float of each; datasets weigh the same whatever their N, as in MMEB. ValueError without
    any.
    """
    return percent_estimate({name: np.asarray(values, dtype=np.float64) for name, values in right.items()}, seed)


def paired_difference(right: Mapping[str, np.ndarray], baseline: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """How much better one method is than another on the same queries, in points, with a paired bootstrap.

    Both give (N,) bool for each dataset, queries in the same order; ValueError where these are not the same.
    """
    if {n: len(r) for n, r in right.items()} != {n: len(r) for n, r in baseline.items()}:
        raise ValueError("the two methods were not scored on the same datasets and queries: score both again")
    return percent_estimate({n: right[n].astype(np.float64) - baseline[n] for n in right}, seed)


def estimate_mean(values: np.ndarray, seed: int = 0) -> Estimate:
    """The mean of any (N,) numbers in their own unit, with a bootstrap over them.

    >>> estimate_mean(np.array([2.0, 2.0]))
    Estimate(value=2.0, low=2.0, high=2.0, n=2)
    """
    low, high = bounds(resampled_means(values, np.random.default_rng(seed)))
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
    return Estimate(*(round(float(100 * x), 4) for x in (value, *bounds(samples))), n)


def estimate_ratio(counts: Counts, seed: int = 0) -> Estimate:
    """A share in percent, such as that of false negatives, with a bootstrap over units; datasets weigh the same.

    ValueError where there is nothing to count.

    >>> estimate_ratio({"a": [[1, 4]], "b": [[0, 4]]}).value
    12.5
    """
    return _ratio_estimate(*_ratio_samples(counts, np.random.default_rng(seed)))


def difference_of_ratios(counts: Counts, subtracted: Counts, seed: int = 0) -> Estimate:
    """One share minus another, in points, over datasets that have something to count in both; else a ValueError.

    The units (such as clusters of two miners) are different ones, so both are resampled independently; n is their sum.
    """
    rng = np.random.default_rng(seed)
    here, there = ({n for n, units in one.items() if sum(w for _, w in units)} for one in (counts, subtracted))
    counts, subtracted = ({n: one[n] for n in here & there} for one in (counts, subtracted))
    (one, one_samples, n), (other, other_samples, m) = _ratio_samples(counts, rng), _ratio_samples(subtracted, rng)
    return _ratio_estimate(one - other, one_samples - other_samples, n + m)


def group_names(info: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """The averages MMEB reports: for each meta-task, IND, OOD and overall the datasets that enter.

    >>> group_names({"A": {"meta_task": "vqa", "distribution": "IND"}})
    {'vqa': ['A'], 'IND': ['A'], 'overall': ['A']}
    """
    groups: dict[str, list[str]] = {}
    for attribute in ("meta_task", "distribution"):
        for name, one in info.items():
            groups.setdefault(one[attribute], []).append(name)
    return {**groups, "overall": list(info)}
