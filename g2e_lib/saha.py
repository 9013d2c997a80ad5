"""SaHa: mine clusters of mutually hard pairs by looking at the owners of retrieved targets in query space.

A target that lies near a query may be a second right answer to it, a false negative. SaHa (Gen2Embed, section 4)
therefore asks who *owns* the retrieved targets, the queries whose positive they are, and keeps the owners least
similar to the query: what other queries ask for, near in target space and far in query space. Query and owners with
their positives form one training item, in which everybody's positive is everybody else's negative.

Arrays in, indices out. N pairs, M unique targets, D embedding size, K hard negatives (`top_k`), m pool multiplier
(`pool_mult`), F = K m owners looked at, P = 2 F targets retrieved.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from g2e_lib.backbone.nearest import Rows, Search, best_of_groups, group_starts

TOP_K, POOL_MULT = 15, 3  # the paper's settings


class Pairs:
    """The checked input of a miner: N queries, M unique targets, and who owns which target.

    Args:
        query_embeddings: (N, D) float, compared by cosine; `target_embeddings` likewise (M, D).
        positive_of: (N,) int, the target row of each query's positive.
        top_k: K, checked with the rest, as is `pool_mult`, m.

    Raises:
        ValueError: an empty, non-finite or ill-shaped input, or a setting below 1.
    """

    def __init__(
        self,
        query_embeddings: np.ndarray,
        target_embeddings: np.ndarray,
        positive_of: np.ndarray,
        top_k: int,
        pool_mult: int = POOL_MULT,
    ) -> None:
        if int(pool_mult) < 1:
            raise ValueError(f"pool_mult is {pool_mult}, but must be at least 1")
        if int(top_k) < 1:
            raise ValueError(f"top_k is {top_k}, but a cluster needs at least 1 hard negative")
        self.queries = Rows.checked(query_embeddings, "query_embeddings")
        self.targets = Rows.checked(target_embeddings, "target_embeddings")
        self.positive_of = np.asarray(positive_of)
        n, m = len(self.queries), len(self.targets)
        sizes = self.queries.values.shape[1], self.targets.values.shape[1]
        if sizes[0] != sizes[1]:
            raise ValueError(f"queries have {sizes[0]} dimensions and targets {sizes[1]}: embed both with one model")
        if self.positive_of.shape != (n,) or not np.issubdtype(self.positive_of.dtype, np.integer):
            raise ValueError(f"positive_of must be {n} integers, one target row for each query")
        if self.positive_of.min() < 0 or self.positive_of.max() >= m:
            raise ValueError(f"positive_of points outside of the {m} targets: it must hold rows of target_embeddings")
        self.owners = np.argsort(self.positive_of, kind="stable")  # by target, lowest row first
        self.owner_counts = np.bincount(self.positive_of, minlength=m)
        self.first_owner = np.cumsum(self.owner_counts) - self.owner_counts  # where in `owners` a target's begin

    def __len__(self) -> int:
        return len(self.positive_of)

    def owners_of(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All owners of `targets`, one target's after the other's, and for each the place of its target in the list."""
        counts = self.owner_counts[targets]
        place = np.repeat(np.arange(len(targets)), counts)
        within = np.arange(len(place)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.owners[self.first_owner[targets][place] + within], place


def choose_owners(
    pairs: Pairs, row: int, targets: np.ndarray, blocked: np.ndarray, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """For each target its owner most similar to query `row`, in order of the targets, until there are `limit`.

    Target rows come nearest first; `blocked`, (N,) bool, are owners that may not be taken. Returns query rows and
    their cosines to the anchor; of equally similar owners the lowest row is taken.
    """
    pool = targets[targets != pairs.positive_of[row]]
    owners, place = pairs.owners_of(pool)
    is_free = ~blocked[owners]
    owners, place = owners[is_free], place[is_free]
    starts = group_starts(place)
    end = starts[limit] if len(starts) > limit else len(owners)
    return best_of_groups(pairs.queries, row, owners[:end], place[:end])


def mine_clusters(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    top_k: int = TOP_K,
    pool_mult: int = POOL_MULT,
    filter_in_query_space: bool = True,
    *,
    use_second_phase: bool = True,
    device: str = "cpu",
) -> list[np.ndarray]:
    """Mine SaHa clusters: greedy, exact and deterministic; row order is an input.

    Phase 1 visits queries in row order and uses every row at most once. Phase 2 visits those left over, looks at
    twice as many owners, and may use owners of phase 1 again, but none of its own twice.

    Args:
        query_embeddings: (N, D) float, compared by cosine.
        target_embeddings: (M, D) float, unique targets.
        positive_of: (N,) int, the target row of each query's positive.
        top_k: K, most hard negatives of a cluster.
        pool_mult: m; K m owners are looked at, among the owners of the 2 K m nearest targets.
        filter_in_query_space: keep the K owners least similar to the anchor. The paper's code switches this off for
            labelled classification sets, where every other label is a true negative; then the nearest K are kept.
        use_second_phase: whether to serve the queries that phase 1 left over.
        device: "cpu", or a GPU such as "cuda" for the search (needs torch).

    Returns:
        One integer array a cluster, query rows, the anchor first, then up to K owners.

    Raises:
        ValueError: an empty, non-finite or ill-shaped input, or a setting below 1.

    >>> queries = np.eye(3, dtype=np.float32)
    >>> mine_clusters(queries, queries, np.arange(3), top_k=2)
    [array([0, 1, 2])]
    """
    pairs = Pairs(query_embeddings, target_embeddings, positive_of, top_k, pool_mult)
    search, looked_at = Search(pairs.queries, pairs.targets, device), top_k * pool_mult
    used, clusters = np.zeros(len(pairs), dtype=bool), []
    visits: Iterable[tuple[int, np.ndarray]] = search.unused(used, 2 * looked_at)  # row, its nearest targets
    for phase in (1, 2) if use_second_phase else (1,):
        blocked = used if phase == 1 else np.zeros(len(pairs), dtype=bool)  # owners that may not be taken
        limit = phase * looked_at if filter_in_query_space else top_k  # without sorting, the first K decide
        left_over = []
        for row, targets in visits:
            owners, cosines = choose_owners(pairs, row, targets, blocked, limit)
            if filter_in_query_space:
                owners = owners[np.argsort(cosines, kind="stable")]  # least similar in query space first
            kept = owners[:top_k]
            if len(kept):
                used[row] = used[kept] = blocked[kept] = True
                clusters.append(np.concatenate(([row], kept)))
            else:
                left_over.append((row, targets))
        visits = (visit for visit in left_over if not used[visit[0]])
    return clusters


@dataclass(frozen=True)
class Step:
    """What became of one target retrieved for an anchor."""

    target: int  # row
    target_cosine: float  # to the anchor
    owner: int  # row of the owner that stands for the target, or -1
    owner_cosine: float  # to the anchor, in query space; NaN without owner
    fate: str  # "own positive", "not looked at", "too similar in query space" or "kept"


def explain_cluster(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    row: int,
    top_k: int = TOP_K,
    pool_mult: int = POOL_MULT,
) -> list[Step]:
    """Retrace how the cluster of `row` comes about when no row has been used: one Step a retrieved target, in order.

    Arguments and errors are those of `mine_clusters`; also a ValueError where there is no such row.
    """
    pairs = Pairs(query_embeddings, target_embeddings, positive_of, top_k, pool_mult)
    if not 0 <= row < len(pairs):
        raise ValueError(f"there is no row {row} to explain: rows go from 0 to {len(pairs) - 1}")
    ((targets, cosines),) = Search(pairs.queries, pairs.targets).nearest(np.array([row]), 2 * top_k * pool_mult)
    owners, similarity = choose_owners(pairs, row, targets, np.zeros(len(pairs), dtype=bool), top_k * pool_mult)
    kept = set(owners[np.argsort(similarity, kind="stable")][:top_k].tolist())
    chosen = {int(positive_of[o]): (int(o), float(c)) for o, c in zip(owners, similarity, strict=True)}
    steps = []
    for target, cosine in zip(targets.tolist(), cosines.tolist(), strict=True):
        owner, owner_cosine = chosen.get(target, (-1, float("nan")))
        fate = "kept" if owner in kept else "too similar in query space" if owner >= 0 else "not looked at"
        steps.append(Step(target, cosine, owner, owner_cosine, "own positive" if target == positive_of[row] else fate))
    return steps
