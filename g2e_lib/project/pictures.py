"""Small pictures that results keep, so that figures can be drawn again from results alone.

A tile is a record: `image`, the name of a picture's file or "", and texts to go with it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from g2e_lib.project.store import atomic_path

FOLDER = "images"  # inside a profile's results
MOST = 256  # pixels a side; larger pictures are kept smaller

Tile = Mapping[str, Any]


def save_picture(image: Image.Image | Path | str | None, results: Path) -> str:
    """Keep a picture, named by its content.

    Args:
        image: a picture, a file, or None or "" for no picture.
        results: folder of a profile's results.

    Returns:
        The file's path relative to `results`, or "".
    """
    if image is None or image == "":
        return ""
    if not isinstance(image, Image.Image):
        with Image.open(image) as opened:
            return save_picture(opened.convert("RGB"), results)
    image = image.convert("RGB")
    image.thumbnail((MOST, MOST))
    digest = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).hexdigest()[:16]
    name = f"{FOLDER}/{digest}.png"
    with atomic_path(results / name) as partial:
        image.save(partial, format="PNG", optimize=True)
    return name


def enlarged(path: Path, side: int = 192) -> Image.Image:
    """A picture, enlarged to look at; `side` in pixels."""
    with Image.open(path) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def draw_tile(
    axis: Axes, tile: Tile, results: Path, width: int = 26, sizes: Sequence[float] = (7, 6), colour: str = "0.6"
) -> None:
    """Draw a tile: its picture, or else its `text`, between `title` and `caption`.

    Args:
        axis: to draw on.
        tile: `image`, and optionally `text`, `title` and `caption`.
        results: folder that `image` is relative to.
        width: characters in a line.
        sizes: of the letters of the title, and of everything else, in points.
        colour: of the frame.
    """
    title, small = sizes
    if tile["image"]:
        with Image.open(results / tile["image"]) as image:
            axis.imshow(image.convert("RGB"), interpolation="nearest")
    else:
        axis.imshow(np.full((64, 64, 3), 255, dtype=np.uint8))
        axis.text(32, 32, fill(tile["text"], width - 6), ha="center", va="center", fontsize=small)
    axis.set_title(_wrap(tile.get("title", ""), width), fontsize=title)
    axis.set_xlabel(_wrap(tile.get("caption", ""), width), fontsize=small)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set(edgecolor=colour, linewidth=0.8 if colour == "0.6" else 2.2, visible=True)


def _wrap(text: str, width: int) -> str:
    return "\n".join(fill(line, width) for line in text.split("\n"))
