"""Means with bootstrap intervals over queries: what both an evaluation and a comparison of stored runs need."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

BOOTSTRAP_SAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % bootstrap interval and the number of queries behind it."""

    value: float
    low: float
    high: float
    n: int


def resampled_means(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Means of bootstrap samples of one dataset's queries: (BOOTSTRAP_SAMPLES,) float64.

    Drawing N queries with replacement draws a multinomial number of each distinct value, which is much faster.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = rng.multinomial(len(values), counts / len(values), size=BOOTSTRAP_SAMPLES)
    return drawn @ distinct.astype(np.float64) / len(values)


def bounds(samples: np.ndarray) -> np.ndarray:
    """Both ends of the interval that bootstrap samples span: (2,) float64."""
    return np.quantile(samples, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])


def percent_estimate(values: Mapping[str, np.ndarray], seed: int = 0) -> Estimate:
    """The mean over datasets of their means, in percent; datasets weigh the same whatever their size, as in MMEB.

    Args:
        values: for each dataset (N,) float64: answers, shares of seeds that are right, or paired differences of both.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no dataset.
    """
    if not values:
        raise ValueError("there is no dataset to average over: name at least one")
    rng = np.random.default_rng(seed)
    samples = np.mean([resampled_means(values[name], rng) for name in sorted(values)], axis=0)
    low, high = bounds(samples)
    mean = np.mean([answers.mean() for answers in values.values()])
    n = sum(len(answers) for answers in values.values())
    return Estimate(*(round(float(100 * x), 4) for x in (mean, low, high)), n)
