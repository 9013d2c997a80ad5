"""Training subsets: pairs with their distinct targets, and the digests that identify them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from g2e_lib.data.items import Item, Pair, item_digests, unique
from g2e_lib.data.mmeb import read_mmeb_train
from g2e_lib.project.config import fingerprint


@dataclass(frozen=True)
class Subset:
    """A training subset of N pairs with M distinct targets."""

    name: str
    pairs: list[Pair]  # in row order, which is an input of mining
    targets: list[Item]  # in order of first appearance
    positive_of: np.ndarray  # (N,) int64, the target row of each pair


def load_subsets(
    data: Path, names: Sequence[str], images: str = "", split: str = "original", fraction: float = 1.0, limit: int = 0
) -> list[Subset]:
    """Read training subsets: of each the first `limit` pairs (0: all), and of these the first `fraction`.

    Args:
        data: folder with one folder a subset, in MMEB-train's format.
        names: subsets.
        images: folder that image paths are relative to; "" is the parent of `data`.
        split: such as "original".
        fraction: a share.
        limit: a number of pairs.

    Raises:
        ValueError: an unknown subset, or one without pairs.
    """
    subsets = []
    for name in names:
        pairs = read_mmeb_train(data, name, Path(images) if images else data.parent, split, limit)
        pairs = pairs[: max(1, round(fraction * len(pairs)))]
        if not pairs:
            raise ValueError(f"subset {name!r} in {data} has no pairs: leave it out, or download it again")
        targets, positive_of = unique(pair.target for pair in pairs)
        subsets.append(Subset(name, pairs, targets, positive_of))
    return subsets


def subset_digest(subset: Subset) -> str:
    """A digest of the content of all pairs, images included, in row order."""
    digests = item_digests(item for pair in subset.pairs for item in (pair.query, pair.target))
    return fingerprint([[digests[pair.query], digests[pair.target]] for pair in subset.pairs])


def data_digest(subsets: Sequence[Subset]) -> str:
    """One digest of all subsets."""
    return fingerprint({subset.name: subset_digest(subset) for subset in subsets})


def find_subset(subsets: Sequence[Subset], name: str) -> Subset:
    """The subset of that name; ValueError if there is none."""
    found = {subset.name: subset for subset in subsets}
    if name not in found:
        raise ValueError(f"there is no subset {name!r} here: choose one of {', '.join(found)}")
    return found[name]
