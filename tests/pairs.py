"""Random inputs of miners."""

import numpy as np


def random_pairs(seed, rows, targets, dimension, is_coarse):
    """Embeddings (coarse ones with many exact ties) whose targets have very unequal numbers of owners."""
    rng = np.random.default_rng(seed)
    draw = (lambda n: rng.integers(-1, 2, (n, dimension))) if is_coarse else (lambda n: rng.normal(size=(n, dimension)))
    q, t = draw(rows).astype(np.float32), draw(targets).astype(np.float32)
    q[:, 0] += 3  # no zero rows
    t[:, 0] += 3
    weights = rng.random(targets) ** 3
    return q, t, rng.choice(targets, size=rows, p=weights / weights.sum())


def as_lists(clusters):
    return [cluster.tolist() for cluster in clusters]
