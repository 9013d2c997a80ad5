"""SaHa: mine clusters of mutually hard pairs by looking at the owners of retrieved targets in query space.

A target that lies near a query may be a second right answer to it, a false negative. SaHa (Gen2Embed, section 4)
therefore asks who *owns* the retrieved targets, the queries whose positive they are, and keeps the owners least
similar to the query: what other queries ask for, near in target space and far in query space. Query and owners with
their positives form one training item, in which everybody's positive is everybody else's negative.

Arrays in, indices out: no model, no files; torch is imported only when a GPU is asked for.
N pairs, M unique targets, D embedding size, K hard negatives (`top_k`), m pool multiplier (`pool_mult`), F = K m
owners looked at, P = 2 F targets retrieved.
"""

from dataclasses import dataclass

import numpy as np

from g2e_lib.backbone.nearest import _choose_owners, _Pairs, _Search, _unused_in_order

TOP_K, POOL_MULT = 15, 3  # the paper's settings


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
    pairs = _Pairs(query_embeddings, target_embeddings, positive_of, top_k, pool_mult)
    count = top_k * pool_mult
    used, clusters, left_over = np.zeros(len(pairs), dtype=bool), [], []

    def cluster_of(row: int, pool: np.ndarray, blocked: np.ndarray, looked_at: int) -> np.ndarray:
        return _cluster(pairs, row, pool, blocked, top_k, looked_at, filter_in_query_space)

    for row, pool in _unused_in_order(pairs, used, 2 * count, device):
        cluster = cluster_of(row, pool, used, count)
        if len(cluster) == 1:
            left_over.append((row, pool))
        else:
            used[cluster] = True
            clusters.append(cluster)
    taken = np.zeros(len(pairs), dtype=bool)  # owners of phase 2
    for row, pool in left_over if use_second_phase else ():
        cluster = cluster_of(row, pool, taken, 2 * count) if not used[row] else np.empty(0)
        if len(cluster) > 1:
            used[cluster] = taken[cluster[1:]] = True
            clusters.append(cluster)
    return clusters


def _cluster(
    pairs: _Pairs, row: int, pool: np.ndarray, blocked: np.ndarray, top_k: int, looked_at: int, is_filtered: bool
) -> np.ndarray:
    """The anchor `row` and the owners it gets, if any."""
    limit = looked_at if is_filtered else min(top_k, looked_at)  # without sorting, the first K decide
    owners, cosines = _choose_owners(pairs, row, pool, blocked, limit, is_filtered)
    if is_filtered:
        owners = owners[np.argsort(cosines, kind="stable")]
    return np.concatenate(([row], owners[:top_k]))


@dataclass(frozen=True)
class Step:
    """What became of one target retrieved for an anchor.

    Attributes:
        target: target row.
        target_cosine: similarity of target and anchor.
        owner: the owner that stands for it, or -1.
        owner_cosine: similarity of owner and anchor in query space; NaN without owner.
        fate: "own positive", "not looked at", "too similar in query space" or "kept".
    """

    target: int
    target_cosine: float
    owner: int
    owner_cosine: float
    fate: str


def explain_cluster(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    row: int,
    top_k: int = TOP_K,
    pool_mult: int = POOL_MULT,
) -> list[Step]:
    """Retrace how the cluster of `row` comes about when no row has been used: one Step a retrieved target, in order.

    Args:
        query_embeddings: (N, D) float.
        target_embeddings: (M, D) float, unique targets.
        positive_of: (N,) int, the target row of each query's positive.
        row: the anchor.
        top_k: K.
        pool_mult: m.

    Raises:
        ValueError: as `mine_clusters`, or there is no such row.
    """
    pairs = _Pairs(query_embeddings, target_embeddings, positive_of, top_k, pool_mult)
    if not 0 <= row < len(pairs):
        raise ValueError(f"there is no row {row} to explain: rows go from 0 to {len(pairs) - 1}")
    ((targets, cosines),) = _Search(pairs, "cpu").nearest(np.array([row]), 2 * top_k * pool_mult)
    pool = targets[targets != positive_of[row]]
    nobody = np.zeros(len(pairs), dtype=bool)
    owners, similarity = _choose_owners(pairs, row, pool, nobody, top_k * pool_mult, needs_cosine=True)
    kept = set(owners[np.argsort(similarity, kind="stable")][:top_k].tolist())
    chosen = {int(positive_of[o]): (int(o), float(c)) for o, c in zip(owners, similarity, strict=True)}
    steps = []
    for target, cosine in zip(targets.tolist(), cosines.tolist(), strict=True):
        owner, owner_cosine = chosen.get(target, (-1, float("nan")))
        fate = "kept" if owner in kept else "too similar in query space" if owner >= 0 else "not looked at"
        steps.append(Step(target, cosine, owner, owner_cosine, "own positive" if target == positive_of[row] else fate))
    return steps
