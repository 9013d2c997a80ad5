"""Exact search for the nearest rows: of targets to blocks of queries, and within groups of rows.

Arrays in, indices out: no model, no files; torch is imported only where a GPU is asked for. Cosines are decided by
float64 sums rounded to float32, so that every machine orders alike; a float32 matrix product only makes the shortlists.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from tqdm.auto import tqdm

MIN_BLOCK, MAX_BLOCK = 32, 256  # queries searched at once: enough for a matrix product, few enough to be wanted
LOOKAHEAD = 80  # a block is at most this fraction of the unused rows; then under a tenth of the searches are wasted
SILENT_ROWS = 50_000  # from here on mining takes seconds and shows a progress bar
UNIT = 1e-6  # rows whose norm is this close to 1 are taken as they are


@dataclass(frozen=True)
class Rows:
    """Embeddings whose cosines can be taken."""

    values: np.ndarray  # (n, D) float32, contiguous
    scale: np.ndarray | None  # (n,) float64, 1 / norm; None where all rows have unit length

    @classmethod
    def checked(cls, embeddings: np.ndarray, name: str) -> "Rows":
        """Rows of any length but zero; `name` is what a ValueError calls them if they are empty or not finite."""
        values = np.ascontiguousarray(embeddings, dtype=np.float32)
        if values.ndim != 2 or not len(values):
            raise ValueError(
                f"{name} has shape {values.shape}, but must be (rows, D) with at least one row: is it empty?"
            )
        norms = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
        wrong = ~np.isfinite(norms) | (norms == 0)
        if wrong.any():
            raise ValueError(
                f"row {int(wrong.argmax())} of {name} is zero or holds NaN or infinity ({int(wrong.sum())} such rows): "
                "embed these items again, in float32 if they were embedded in less"
            )
        is_unit = np.abs(norms - 1).max() < UNIT
        return cls(values, None if is_unit else 1 / norms)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def slack(self) -> np.float32:
        """How far off a float32 cosine may be: a sum of D products by D half-ulps, doubled. Closer calls are exact."""
        return np.float32(2 * self.values.shape[1] * 2.0**-24)

    def unit(self, which: np.ndarray | slice) -> np.ndarray:
        """These rows with unit length: float32."""
        values = self.values[which]
        return values if self.scale is None else (values * self.scale[which, None]).astype(np.float32)

    def cosines(self, which: np.ndarray, other: "Rows", row: int) -> np.ndarray:
        """Exact cosines of these rows to one row of `other`: (n,) float32; equal inputs tie exactly."""
        sums = self.values.take(which, axis=0).astype(np.float64) @ other.values[row].astype(np.float64)
        if self.scale is not None:
            sums *= self.scale[which]
        if other.scale is not None:
            sums *= other.scale[row]
        return sums.astype(np.float32)


class Search:
    """The nearest of M targets to blocks of N queries, exactly, without ever holding all N x M similarities."""

    def __init__(self, queries: Rows, targets: Rows, device: str = "cpu") -> None:
        self.queries, self.targets, self.device = queries, targets, device
        if device != "cpu":
            import torch

            self.torch = torch
            self.on_device = torch.from_numpy(targets.unit(slice(None))).to(device)

    def nearest(self, rows: np.ndarray, count: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each query of `rows` its `count` nearest targets and their cosines, nearest first, ties by lower row."""
        for row, shortlist in zip(rows, self._shortlists(rows, count), strict=True):
            cosines = self.targets.cosines(shortlist, self.queries, row)
            order = np.argsort(-cosines, kind="stable")[:count]  # shortlists are ascending: ties by lower row
            yield shortlist[order], cosines[order]

    def unused(self, used: np.ndarray, count: int) -> Iterator[tuple[int, np.ndarray]]:
        """Visit rows in order that are unused when their turn comes, each with its `count` nearest targets.

        The caller marks rows in `used`, (N,) bool, between two visits. A cluster uses up K + 1 rows, so most never
        need a search, and one search at a time would read all targets for a single query. Hence blocks of the next
        unused rows: a little work is wasted on rows that are used before their turn.
        """
        position = 0
        with tqdm(total=len(used), desc="mine", unit="row", disable=len(used) < SILENT_ROWS) as bar:
            while len(waiting := position + np.flatnonzero(~used[position:])):
                block = waiting[: max(MIN_BLOCK, min(MAX_BLOCK, len(waiting) // LOOKAHEAD))]
                for row, (targets, _) in zip(block, self.nearest(block, count), strict=False):
                    if not used[row]:
                        yield row, targets
                position = int(block[-1]) + 1
                bar.update(position - bar.n)
            bar.update(len(used) - bar.n)

    def _shortlists(self, rows: np.ndarray, count: int) -> list[np.ndarray]:
        """Ascending target rows of each query, among which its `count` nearest are certain to be."""
        total, slack = len(self.targets), self.targets.slack
        if count >= total:
            return [np.arange(total)] * len(rows)
        queries = self.queries.unit(rows)
        if self.device != "cpu":
            similarity = self.torch.from_numpy(queries).to(self.device) @ self.on_device.T
            threshold = similarity.topk(count, dim=1).values[:, -1:] - float(slack)
            index, found = (numbers.cpu().numpy() for numbers in (similarity >= threshold).nonzero(as_tuple=True))
            return np.split(found, np.searchsorted(index, np.arange(1, len(rows))))
        similarity = queries @ self.targets.values.T
        if self.targets.scale is not None:
            similarity *= self.targets.scale.astype(np.float32)
        return [np.flatnonzero(values >= _lower_bound(values, count) - slack) for values in similarity]


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


def group_starts(groups: np.ndarray) -> np.ndarray:
    """Where runs of equal numbers begin.

    >>> group_starts(np.array([0, 0, 3]))
    array([0, 2])
    """
    is_first = np.ones(len(groups), dtype=bool)
    np.not_equal(groups[1:], groups[:-1], out=is_first[1:])
    return np.flatnonzero(is_first)


def best_of_groups(rows: Rows, anchor: int, members: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each group the member most similar to row `anchor`, the first among equals, and its cosine to the anchor.

    `members` are (n,) rows, one group's after the other's; `groups` the (n,) ascending numbers of their groups.
    """
    starts = group_starts(groups)
    if len(starts) < len(members):  # judged in float32 first: seldom more than one of a group needs an exact cosine
        rough = rows.values.take(members, axis=0) @ rows.values[anchor]  # take: faster than indexing here
        if rows.scale is not None:
            rough *= (rows.scale[members] * rows.scale[anchor]).astype(np.float32)
        threshold = np.maximum.reduceat(rough, starts) - rows.slack
        is_near = rough >= np.repeat(threshold, np.diff(starts, append=len(members)))
        members, groups = members[is_near], groups[is_near]
    cosines = rows.cosines(members, rows, anchor)
    if len(starts) < len(members):
        best = np.lexsort((-cosines, groups))[group_starts(groups)]  # stable: the first among equals
        members, cosines = members[best], cosines[best]
    return members, cosines
