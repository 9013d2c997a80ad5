"""SugarCrepe and SugarCrepe++: readers of the published files, which the embedded world's own are written like."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CAPTION_PREFIX = "Find me an image that matches the given caption: "
# Subset -> the group the papers average it in.
SUGARCREPE = {
    name: name.partition("_")[0]
    for name in ("replace_obj", "replace_att", "replace_rel", "swap_obj", "swap_att", "add_obj", "add_att")
}
SUGARCREPE_PP = {name: group for name, group in SUGARCREPE.items() if group != "add"}
SOURCES = {
    "SugarCrepe": "the folder data/ of github.com/RAIVNLab/sugar-crepe",
    "SugarCrepe++": "the folder data/ of github.com/Sri-Harsha/scpp",
}
IMAGES_FROM = "images.cocodataset.org/zips/val2017.zip"


@dataclass(frozen=True)
class CrepeRow:
    """One image file with what is true of it and what is not."""

    image: Path
    captions: tuple[str, ...]  # one true caption (SugarCrepe), or two (SugarCrepe++)
    negative: str  # a false one


def read_sugarcrepe(folder: Path, subset: str, image_root: Path) -> list[CrepeRow]:
    """Read `<folder>/<subset>.json`, an object of rows by key; keys may be missing and mean nothing.

    Raises:
        ValueError: an unknown subset, no such file, or a row that lacks something; the message names it.
    """
    rows = _read_json(folder, subset, "SugarCrepe", SUGARCREPE)
    if not isinstance(rows, dict):
        raise ValueError(f"{folder / f'{subset}.json'} is no SugarCrepe file: it must hold an object of rows by key")
    return [_row(row, f"row {key!r} of {subset}", image_root, ("caption",)) for key, row in rows.items()]


def read_sugarcrepe_pp(folder: Path, subset: str, image_root: Path) -> list[CrepeRow]:
    """Read a file of SugarCrepe++ likewise: a list of rows. Ids do not match those of SugarCrepe."""
    rows = _read_json(folder, subset, "SugarCrepe++", SUGARCREPE_PP)
    if not isinstance(rows, list):
        raise ValueError(f"{folder / f'{subset}.json'} is no SugarCrepe++ file: it must hold a list of rows")
    captions = ("caption", "caption2")
    return [_row(row, f"row {number} of {subset}", image_root, captions) for number, row in enumerate(rows)]


def _read_json(folder: Path, subset: str, name: str, subsets: Mapping[str, str]) -> Any:  # noqa: ANN401
    if subset not in subsets:
        raise ValueError(f"unknown subset {subset!r} of {name}: choose one of {', '.join(subsets)}")
    path = folder / f"{subset}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: download it from {SOURCES[name]}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): download it again from {SOURCES[name]}") from None


def _row(row: object, name: str, image_root: Path, captions: Sequence[str]) -> CrepeRow:
    needed = ("filename", *captions, "negative_caption")
    if not isinstance(row, dict) or not all(isinstance(row.get(field), str) and row[field] for field in needed):
        raise ValueError(f"{name} must have the texts {', '.join(needed)}: download the file again")
    return CrepeRow(image_root / row["filename"], tuple(row[field] for field in captions), row["negative_caption"])


def with_images(subsets: Mapping[str, Sequence[CrepeRow]]) -> tuple[dict[str, list[CrepeRow]], list[str]]:
    """The rows whose image is there, by subset, and the file names that are missing.

    Raises:
        ValueError: no image of any row is there, so the image root is probably wrong.
    """
    images = sorted({row.image for rows in subsets.values() for row in rows})
    missing = {image for image in images if not image.is_file()}
    if images and len(missing) == len(images):
        first = ", ".join(image.name for image in images[:3])
        raise ValueError(
            f"none of the {len(images)} images is in {images[0].parent} (first missing: {first}): check the image "
            f"root, or get them from {IMAGES_FROM}"
        )
    kept = {name: [row for row in rows if row.image not in missing] for name, rows in subsets.items()}
    return kept, sorted(image.name for image in missing)
