"""Small pictures that results keep, so that figures can be drawn again from results alone."""

import hashlib
from pathlib import Path

from PIL import Image

from g2e_lib.project.store import atomic_path

FOLDER = "images"  # inside a profile's results
MOST = 256  # pixels a side; larger pictures are kept smaller


def save_picture(image: Image.Image | Path | str | None, results: Path) -> str:
    """Keep a picture, named by its content; returns the file's path relative to `results`, a run's folder.

    Args:
        image: a picture, a file, or None or "" for no picture, which is told by "" again.
        results: the folder.
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
