"""Miners of hard negatives: SaHa and the ones it is compared with, one function each, all with one signature.

    miner(query_embeddings (N, D), target_embeddings (M, D), positive_of (N,), top_k, *, ...) -> clusters

A cluster is an integer array of query rows, the anchor first: whole pairs, so that all miners train alike and at the
same cost. After the star a miner names those options it wants, each with a default: pool_mult, use_second_phase,
is_labelled, seed, device. A function of your own becomes a miner by `Miner(function)`; with a line in `MINERS` its
name also serves wherever names are asked for.
"""

import hashlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from g2e_lib.backbone.nearest import MAX_BLOCK, Search
from g2e_lib.saha import POOL_MULT, TOP_K, Pairs, mine_clusters

FILTER_MARGIN = 0.1  # UniME's beta: a target nearer than the positive by more is taken for a false negative
HARD_NEGATIVES = 8  # UniME's K, in its second stage


def random(
    query_embeddings: np.ndarray, target_embeddings: np.ndarray, positive_of: np.ndarray, top_k: int, *, seed: int = 0
) -> list[np.ndarray]:
    """K other rows, for every row."""
    count = len(Pairs(query_embeddings, target_embeddings, positive_of, top_k))
    rng, clusters = np.random.default_rng(seed), []
    for row in range(count):
        others = rng.choice(count - 1, size=min(top_k, count - 1), replace=False)
        clusters.append(np.concatenate(([row], others + (others >= row))))
    return clusters


def topk(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    top_k: int,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> list[np.ndarray]:
    """The nearest K targets of every row without its own positive, each by one of its owners, drawn at random."""
    return threshold(query_embeddings, target_embeddings, positive_of, top_k, margin=np.inf, seed=seed, device=device)


def threshold(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    top_k: int,
    *,
    margin: float = FILTER_MARGIN,
    seed: int = 0,
    device: str = "cpu",
) -> list[np.ndarray]:
    """`topk` less the targets nearer than the row's positive by more than `margin`: UniME's rule."""
    pairs = Pairs(query_embeddings, target_embeddings, positive_of, top_k)
    search, rng, clusters = Search(pairs.queries, pairs.targets, device), np.random.default_rng(seed), []

    def keep(row: int, targets: np.ndarray, cosines: np.ndarray) -> np.ndarray:
        own = pairs.positive_of[row]
        limit = pairs.targets.cosines(np.array([own]), pairs.queries, row)[0] + np.float32(margin)
        return targets[(cosines <= limit) & (targets != own) & (pairs.owner_counts[targets] > 0)][:top_k]

    for start in range(0, len(pairs), MAX_BLOCK):
        rows = np.arange(start, min(start + MAX_BLOCK, len(pairs)))
        kept: dict[int, np.ndarray] = {}
        waiting, count = rows, 4 * top_k + 1
        while len(waiting):  # where too many were dropped, look further, all such rows together
            kept |= {row: keep(row, *found) for row, found in zip(waiting, search.nearest(waiting, count), strict=True)}
            lacks = np.array([len(kept[row]) < top_k for row in waiting])
            waiting, count = (waiting[lacks], 4 * count) if count < len(pairs.targets) else (waiting[:0], count)
        for row in rows:
            owner = pairs.first_owner[kept[row]] + rng.integers(0, pairs.owner_counts[kept[row]])
            clusters.append(np.concatenate(([row], pairs.owners[owner])))
    return clusters


def saha(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    top_k: int,
    *,
    pool_mult: int = POOL_MULT,
    use_second_phase: bool = True,
    is_labelled: bool = False,
    device: str = "cpu",
) -> list[np.ndarray]:
    """`mine_clusters`, which in a labelled classification set does not sort in query space."""
    options = {"use_second_phase": use_second_phase, "device": device}
    return mine_clusters(query_embeddings, target_embeddings, positive_of, top_k, pool_mult, not is_labelled, **options)


def saha_no_filter(
    query_embeddings: np.ndarray,
    target_embeddings: np.ndarray,
    positive_of: np.ndarray,
    top_k: int,
    *,
    pool_mult: int = POOL_MULT,
    use_second_phase: bool = True,
    device: str = "cpu",
) -> list[np.ndarray]:
    """SaHa without its sort in query space, in every set: the owners of the nearest targets."""
    options = {"pool_mult": pool_mult, "use_second_phase": use_second_phase, "device": device}
    return saha(query_embeddings, target_embeddings, positive_of, top_k, is_labelled=True, **options)


MINERS: dict[str, Callable] = {miner.__name__: miner for miner in (random, topk, threshold, saha_no_filter, saha)}
SHIPPED = frozenset(MINERS)


@dataclass(frozen=True)
class Miner:
    """A miner with its settings, which identify what it mines."""

    method: str | Callable = "saha"  # a name in MINERS, or a function of your own, which joins them under its name
    top_k: int = TOP_K  # K
    pool_mult: int = POOL_MULT  # m, for SaHa
    use_second_phase: bool = True  # whether SaHa serves the queries its first phase left over
    seed: int = 0  # of the random draws
    # Digest of a function of your own (not of what it calls), so that changed code mines anew.
    source: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        if callable(self.method):
            name = getattr(self.method, "__name__", "<lambda>")
            if name == "<lambda>" or (name in SHIPPED and MINERS[name] is not self.method):
                raise ValueError(f"a miner of yours cannot be called {name!r}: write a function with another name")
            MINERS[name] = self.method
            object.__setattr__(self, "method", name)
        if self.method not in MINERS:
            raise ValueError(f"unknown miner {self.method!r}: choose one of {', '.join(MINERS)}")
        if self.method not in SHIPPED:
            try:
                source = inspect.getsource(MINERS[self.method])
            except OSError:
                raise ValueError(f"cannot read the source of miner {self.method!r}: write it in a file") from None
            object.__setattr__(self, "source", hashlib.sha256(source.encode()).hexdigest()[:16])

    def mine(
        self,
        query_embeddings: np.ndarray,
        target_embeddings: np.ndarray,
        positive_of: np.ndarray,
        is_labelled: bool = False,
        device: str = "cpu",
    ) -> list[np.ndarray]:
        """Mine one subset; arrays, clusters and errors are those of `mine_clusters`.

        A labelled classification set is told to the miners that ask, and `device` is where they search.
        """
        function = MINERS[self.method]
        options = {name: getattr(self, name) for name in ("pool_mult", "use_second_phase", "seed")}
        options |= {"is_labelled": is_labelled, "device": device}
        wanted = {name: options[name] for name in inspect.signature(function).parameters if name in options}
        return function(query_embeddings, target_embeddings, positive_of, self.top_k, **wanted)
