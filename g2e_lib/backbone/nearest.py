"""Exact search for the nearest targets of many queries, in blocks; arrays in, indices out."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

POOL_MULT = 3
MIN_BLOCK, MAX_BLOCK = 32, 256  # queries searched at once: enough for a matrix product, few enough to be wanted
LOOKAHEAD = 80  # a block is at most this fraction of the unused rows; then under a tenth of the searches are wasted
SILENT_ROWS = 50_000  # from here on mining takes seconds and shows a progress bar
UNIT = 1e-6  # rows whose norm is this close to 1 are taken as they are


@dataclass(frozen=True)
class _Rows:
    """Embeddings whose cosines can be taken; `scale` is 1 / norm, or None where all rows have unit length."""

    values: np.ndarray
    scale: np.ndarray | None

    def cosines(self, rows: np.ndarray, other: "_Rows", row: int) -> np.ndarray:
        """Similarities of `rows` here to one row of `other`: (n,) float32.

        Summed in float64, so that the float32 result does not depend on how a library orders its additions: equal
        inputs tie exactly, and every machine mines the same clusters.
        """
        one = other.values[row].astype(np.float64)
        sums = self.values.take(rows, axis=0).astype(np.float64) @ one
        if self.scale is not None:
            sums *= self.scale[rows]
        if other.scale is not None:
            sums *= other.scale[row]
        return sums.astype(np.float32)


def _as_rows(embeddings: np.ndarray, name: str) -> _Rows:
    values = np.ascontiguousarray(embeddings, dtype=np.float32)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"{name} has shape {values.shape}, but must be (rows, D) with at least one row: is it empty?")
    norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    wrong = ~np.isfinite(norms) | (norms == 0)
    if wrong.any():
        raise ValueError(
            f"row {int(wrong.argmax())} of {name} is zero or holds NaN or infinity ({int(wrong.sum())} such rows): "
            "embed these items again, in float32 if they were embedded in less"
        )
    is_unit = np.abs(norms - 1).max() < UNIT
    return _Rows(values, None if is_unit else 1 / norms)


class _Pairs:
    """Checked inputs of a miner, and who owns which target."""

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
        self.queries = _as_rows(query_embeddings, "query_embeddings")
        self.targets = _as_rows(target_embeddings, "target_embeddings")
        self.positive_of = np.asarray(positive_of)
        n, m = len(self.queries.values), len(self.targets.values)
        if self.queries.values.shape[1] != self.targets.values.shape[1]:
            sizes = self.queries.values.shape[1], self.targets.values.shape[1]
            raise ValueError(f"queries have {sizes[0]} dimensions and targets {sizes[1]}: embed both with one model")
        if self.positive_of.shape != (n,) or not np.issubdtype(self.positive_of.dtype, np.integer):
            raise ValueError(f"positive_of must be {n} integers, one target row for each query")
        if self.positive_of.min() < 0 or self.positive_of.max() >= m:
            raise ValueError(f"positive_of points outside of the {m} targets: it must hold rows of target_embeddings")
        # A float32 sum of D products is off by at most D half-ulps; closer calls are decided by `_Rows.cosines`.
        self.slack = np.float32(2 * self.queries.values.shape[1] * 2.0**-24)
        # Owners of target j, lowest row first: owners[start[j]:start[j + 1]].
        self.owners = np.argsort(self.positive_of, kind="stable")
        self.start = np.concatenate(([0], np.cumsum(np.bincount(self.positive_of, minlength=m))))

    def __len__(self) -> int:
        return len(self.positive_of)

    def owners_of(self, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All owners of `targets`, one target's after the other's, and for each the index of its target."""
        first, counts = self.start[targets], self.start[targets + 1] - self.start[targets]
        index = np.repeat(np.arange(len(targets)), counts)
        within = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.owners[first[index] + within], index


class _Search:
    """The nearest targets of blocks of queries, exactly, without ever holding all N x M similarities."""

    def __init__(self, pairs: _Pairs, device: str) -> None:
        self.pairs, self.device = pairs, device
        if device != "cpu":
            import torch

            self.torch = torch
            self.on_device = torch.from_numpy(self._unit(pairs.targets, slice(None))).to(device)

    @staticmethod
    def _unit(rows: _Rows, which: np.ndarray | slice) -> np.ndarray:
        values = rows.values[which]
        return values if rows.scale is None else (values * rows.scale[which, None]).astype(np.float32)

    def nearest(self, rows: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each query of `rows` its `count` nearest targets and their cosines, nearest first, ties by lower row."""
        targets = self.pairs.targets
        for row, shortlist in zip(rows, self._shortlists(rows, count), strict=True):
            cosines = targets.cosines(shortlist, self.pairs.queries, row)
            order = np.argsort(-cosines, kind="stable")[:count]  # shortlists are ascending: ties by lower row
            yield shortlist[order], cosines[order]

    def _shortlists(self, rows: np.ndarray, count: int) -> list[np.ndarray]:
        """Ascending target rows of each query, among which its `count` nearest are certain to be."""
        total = len(self.pairs.targets.values)
        if count >= total:
            return [np.arange(total)] * len(rows)
        queries = self._unit(self.pairs.queries, rows)
        if self.device != "cpu":
            similarity = self.torch.from_numpy(queries).to(self.device) @ self.on_device.T
            threshold = similarity.topk(count, dim=1).values[:, -1:] - float(self.pairs.slack)
            index, found = (one.cpu().numpy() for one in (similarity >= threshold).nonzero(as_tuple=True))
            return np.split(found, np.searchsorted(index, np.arange(1, len(rows))))
        similarity = queries @ self.pairs.targets.values.T
        if self.pairs.targets.scale is not None:
            similarity *= self.pairs.targets.scale.astype(np.float32)
        return [np.flatnonzero(one >= _lower_bound(one, count) - self.pairs.slack) for one in similarity]


def _lower_bound(values: np.ndarray, count: int) -> np.float32:
    """A value that at least `count` of `values` reach, and few more: the `count`-th largest of the maxima of groups.

    Much cheaper than the `count`-th largest value itself. Groups of 32 at most, and more than `count` of them.
    """
    group = min(32, len(values) // (4 * count))
    maxima = values
    if group > 1:
        whole = len(values) // group * group  # the rest could only raise the bound
        maxima = values[:whole].reshape(group, -1).max(0)
    return np.partition(maxima, len(maxima) - count)[len(maxima) - count]


def _choose_owners(
    pairs: _Pairs, row: int, pool: np.ndarray, blocked: np.ndarray, limit: int, needs_cosine: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """For each target of `pool` its owner most similar to query `row`, in order, until there are `limit`.

    Args:
        pairs: inputs.
        row: the anchor query.
        pool: targets, nearest first, without the anchor's positive.
        blocked: (N,) bool, owners that may not be taken.
        limit: most owners.
        needs_cosine: whether the owners' similarities are wanted.

    Returns:
        Up to `limit` query rows, and their cosines to the anchor (None if not wanted).
    """
    owners, index = pairs.owners_of(pool)
    free = ~blocked[owners]
    owners, index = owners[free], index[free]
    if not len(owners):
        return owners, np.empty(0, np.float32)
    starts = _group_starts(index)  # where each target's free owners begin
    if len(starts) > limit:
        owners, index, starts = owners[: starts[limit]], index[: starts[limit]], starts[:limit]
    if len(starts) < len(owners):
        owners, index = _near_best(pairs, row, owners, starts)
        starts = _group_starts(index)
    if len(starts) == len(owners):
        return owners, pairs.queries.cosines(owners, pairs.queries, row) if needs_cosine else None
    cosines = pairs.queries.cosines(owners, pairs.queries, row)
    best = np.maximum.reduceat(cosines, starts)
    group = np.repeat(np.arange(len(starts)), np.append(starts[1:], len(owners)) - starts)
    is_best = np.flatnonzero(cosines == best[group])
    first = is_best[_group_starts(index[is_best])]  # ties: the lowest row
    return owners[first], best


def _group_starts(index: np.ndarray) -> np.ndarray:
    """Where runs of equal values begin."""
    return np.concatenate(([0], np.flatnonzero(index[1:] != index[:-1]) + 1))


def _near_best(pairs: _Pairs, row: int, owners: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each group of owners those that may be the most similar to `row`, judged in float32, and their groups.

    Seldom more than one remains, so that the exact similarities are few.
    """
    queries = pairs.queries
    rough = queries.values.take(owners, axis=0) @ queries.values[row]  # take: faster than indexing here
    if queries.scale is not None:
        rough *= (queries.scale[owners] * queries.scale[row]).astype(np.float32)
    lengths = np.append(starts[1:], len(owners)) - starts
    threshold = np.maximum.reduceat(rough, starts) - pairs.slack
    group = np.repeat(np.arange(len(starts)), lengths)
    is_near = rough >= threshold[group]
    return owners[is_near], group[is_near]


def _unused_in_order(pairs: _Pairs, used: np.ndarray, count: int, device: str) -> Iterator[tuple[int, np.ndarray]]:
    """Visit rows in order that are unused when their turn comes, each with its pool of nearest targets.

    A cluster uses up K + 1 rows, so most rows never need a search; and one search at a time would read all targets
    for a single query. Hence blocks of the next unused rows: a little of the work is wasted on rows that are used
    before their turn.
    """
    search, position = _Search(pairs, device), 0
    with tqdm(total=len(pairs), desc="mine", unit="row", disable=len(pairs) < SILENT_ROWS) as bar:
        while True:
            waiting = position + np.flatnonzero(~used[position:])
            if not len(waiting):
                bar.update(len(pairs) - bar.n)
                return
            block = waiting[: max(MIN_BLOCK, min(MAX_BLOCK, len(waiting) // LOOKAHEAD))]
            for row, (pool, _) in zip(block, search.nearest(block, count), strict=False):
                if not used[row]:
                    yield row, pool[pool != pairs.positive_of[row]]
            position = int(block[-1]) + 1
            bar.update(position - bar.n)
