"""Items, pairs and evaluation rows: what is embedded, trained on and scored."""

import hashlib
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from g2e_lib.project.config import file_digest


@dataclass(frozen=True)
class Item:
    """What is embedded: a text, an image file, or both; the image, if any, comes first."""

    text: str = ""
    image: Path | None = None


@dataclass(frozen=True)
class Pair:
    """One training pair."""

    query: Item
    target: Item


@dataclass(frozen=True)
class EvalRow:
    """One evaluation query with its candidates; the first one is the right answer."""

    query: Item
    candidates: tuple[Item, ...]


def unique(items: Iterable[Hashable]) -> tuple[list[Any], np.ndarray]:
    """The distinct items in order of first appearance, and for each item its row among them (int64).

    >>> unique(["b", "a", "b"])
    (['b', 'a'], array([0, 1, 0]))
    """
    position: dict[Hashable, int] = {}
    rows = [position.setdefault(item, len(position)) for item in items]
    return list(position), np.array(rows, dtype=np.int64)


def missing_image(path: Path) -> ValueError:
    """The error for an image file that is not there."""
    return ValueError(f"image {path} does not exist: check the path or download the images again")


def item_digests(items: Iterable[Item]) -> dict[Item, str]:
    """A digest of the content of every distinct item, for cache keys: its text, and its image file's bytes.

    Raises:
        ValueError: an image file is missing.
    """
    files: dict[Path, str] = {}
    digests: dict[Item, str] = {}
    for item in items:
        if item in digests:
            continue
        if item.image is not None and item.image not in files:
            try:
                files[item.image] = file_digest(item.image)
            except FileNotFoundError:
                raise missing_image(item.image) from None
        image = files[item.image] if item.image is not None else ""
        digests[item] = hashlib.sha256(f"{image}\n{item.text}".encode()).hexdigest()[:32]
    return digests
