"""The miners SaHa is compared with."""

from dataclasses import dataclass

import numpy as np

from g2e_lib.backbone.nearest import MAX_BLOCK, _Pairs, _Search
from g2e_lib.saha import POOL_MULT, TOP_K, mine_clusters

FILTER_MARGIN = 0.1  # UniME's beta: a target nearer than the positive by more is taken for a false negative
HARD_NEGATIVES = 8  # UniME's K, in its second stage


def _random_rows(pairs: _Pairs, top_k: int, rng: np.random.Generator) -> list[np.ndarray]:
    clusters = []
    for row in range(len(pairs)):
        others = rng.choice(len(pairs) - 1, size=min(top_k, len(pairs) - 1), replace=False)
        clusters.append(np.concatenate(([row], others + (others >= row))))
    return clusters


def _nearest_targets(
    pairs: _Pairs, top_k: int, rng: np.random.Generator, margin: float, device: str
) -> list[np.ndarray]:
    """The nearest K targets of every query, less those nearer than its positive by more than `margin`."""
    search, clusters, total = _Search(pairs, device), [], len(pairs.targets.values)

    def keep(row: int, targets: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        own = pairs.positive_of[row]
        limit = pairs.targets.cosines(np.array([own]), pairs.queries, row)[0] + np.float32(margin)
        has_owner = pairs.start[targets + 1] > pairs.start[targets]
        return targets[(cosines <= limit) & (targets != own) & has_owner][:top_k]

    for start in range(0, len(pairs), MAX_BLOCK):
        rows = np.arange(start, min(start + MAX_BLOCK, len(pairs)))
        kept: dict[int, np.ndarray] = {}
        waiting, count = rows, 4 * top_k + 1
        while len(waiting):  # where too many were dropped, look further, all such rows together
            for row, found in zip(waiting, search.nearest(waiting, count), strict=True):
                kept[row] = keep(row, *found)
            lacks = np.array([len(kept[row]) < top_k for row in waiting])
            waiting, count = (waiting[lacks], 4 * count) if count < total else (waiting[:0], count)
        for row in rows:
            targets = kept[row]
            offsets = rng.integers(0, pairs.start[targets + 1] - pairs.start[targets])
            clusters.append(np.concatenate(([row], pairs.owners[pairs.start[targets] + offsets])))
    return clusters


METHODS = ("random", "topk", "threshold", "saha_no_filter", "saha")


@dataclass(frozen=True)
class Miner:
    """How to mine; all methods give clusters of whole pairs, so that all train alike and at the same cost.

    `random` takes K other rows; `topk` the K nearest targets without the query's own positive; `threshold` likewise,
    less the targets nearer than the positive by more than FILTER_MARGIN (UniME). These three serve every row, and a
    target stands for one of its owners, drawn at random. `saha` and `saha_no_filter` are `mine_clusters`.

    Attributes:
        method: one of METHODS.
        top_k: K.
        pool_mult: m, for SaHa.
        use_second_phase: whether SaHa serves the queries its first phase left over.
        seed: of the random draws.
    """

    method: str = "saha"
    top_k: int = TOP_K
    pool_mult: int = POOL_MULT
    use_second_phase: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown miner {self.method!r}: choose one of {', '.join(METHODS)}")

    def mine(
        self,
        query_embeddings: np.ndarray,
        target_embeddings: np.ndarray,
        positive_of: np.ndarray,
        is_labelled: bool = False,
        device: str = "cpu",
    ) -> list[np.ndarray]:
        """Mine one subset.

        Args:
            query_embeddings: (N, D) float.
            target_embeddings: (M, D) float, unique targets.
            positive_of: (N,) int, the target row of each query's positive.
            is_labelled: a labelled classification set, in which SaHa does not sort in query space.
            device: where to search.

        Returns:
            One integer array a cluster, query rows, the anchor first.

        Raises:
            ValueError: as `mine_clusters`.
        """
        inputs = query_embeddings, target_embeddings, positive_of, self.top_k
        if self.method.startswith("saha"):
            is_filtered = self.method == "saha" and not is_labelled
            second = self.use_second_phase
            return mine_clusters(*inputs, self.pool_mult, is_filtered, use_second_phase=second, device=device)
        pairs, rng = _Pairs(*inputs), np.random.default_rng(self.seed)
        if self.method == "random":
            return _random_rows(pairs, self.top_k, rng)
        return _nearest_targets(pairs, self.top_k, rng, FILTER_MARGIN if self.method == "threshold" else np.inf, device)
