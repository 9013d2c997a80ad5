"""Readers of MMEB's own format, in which MMEB-mini is written as well."""

import json
import logging
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from g2e_lib.data.items import EvalRow, Item, Pair

logger = logging.getLogger(__name__)

# In a folder of images: a JSON list of those to be left out, with the rows that need them.
SKIPPED = "skipped.json"
IMAGE_PLACEHOLDER = "<|image_1|>"  # stands in a row's text where the image goes
TRAIN_NAMES = {"ImageNet-1K": "ImageNet_1K"}  # evaluation datasets whose training subset is spelt differently
EVAL_SCHEMA = pa.schema(
    {
        "qry_text": pa.string(),
        "qry_img_path": pa.string(),
        "tgt_text": pa.list_(pa.string()),
        "tgt_img_path": pa.list_(pa.string()),
    }
)
TRAIN_COLUMNS = ["qry", "qry_image_path", "pos_text", "pos_image_path"]
TRAIN_SCHEMA = pa.schema(dict.fromkeys([*TRAIN_COLUMNS, "neg_text", "neg_image_path"], pa.string()))


def dataset_of(subset: str) -> str:
    """The evaluation dataset that a training subset belongs to.

    >>> dataset_of("ImageNet_1K"), dataset_of("MSCOCO")
    ('ImageNet-1K', 'MSCOCO')
    """
    return next((dataset for dataset, name in TRAIN_NAMES.items() if name == subset), subset)


def skipped_images(image_root: Path) -> frozenset[Path] | None:
    """The images listed in `skipped.json`, which rows may not need; None if there is no such list."""
    path = image_root / SKIPPED
    return frozenset(image_root / name for name in json.loads(path.read_text("utf-8"))) if path.exists() else None


def _is_usable(item: Item, skipped: frozenset[Path]) -> bool:
    return item.image not in skipped if item.image else bool(item.text)


def _item(text: str | None, image: str | None, image_root: Path) -> Item:
    text = (text or "").replace(IMAGE_PLACEHOLDER, "").strip()
    return Item(text, image_root / image if image else None)


def read_rows(
    root: Path, subset: str, split: str, limit: int = 0, columns: list[str] | None = None
) -> list[dict[str, Any]]:
    """Read the first `limit` rows (0: all) of `<root>/<subset>/<split>-*.parquet`, the layout of both repositories.

    Raises:
        ValueError: the folder, the subset or the split is not there.
    """
    if not root.is_dir():
        raise ValueError(f"there is no data folder {root}: run notebook 00_setup first, which makes it")
    files = sorted((root / subset).glob(f"{split}-*.parquet"))
    if not (root / subset).is_dir():
        known = sorted({path.parent.name for path in root.glob("*/*.parquet")})
        raise ValueError(f"unknown subset {subset!r} in {root}: choose one of {', '.join(known)}")
    if not files:
        splits = sorted({path.name.split("-")[0] for path in (root / subset).glob("*.parquet")})
        raise ValueError(f"subset {subset!r} in {root} has no split {split!r}: choose one of {', '.join(splits)}")
    rows: list[dict[str, Any]] = []
    for file in files:
        if not limit or len(rows) < limit:
            rows += pq.read_table(file, columns=columns).slice(0, limit - len(rows) if limit else None).to_pylist()
    return rows


def read_mmeb_eval(root: Path, subset: str, image_root: Path, limit: int = 0) -> list[EvalRow]:
    """Read an evaluation subset, such as "MSCOCO_t2i", whose image paths are relative to `image_root`.

    If that holds a list `skipped.json`, rows whose query or right candidate is in the list or empty are left out, and
    so are such other candidates.

    Raises:
        ValueError: as read_rows, or a row has no candidates, or lists of unequal length.
    """
    rows, skipped, count, dropped = [], skipped_images(image_root), 0, 0

    @cache  # the same thousand candidates may belong to every row
    def make(text: str | None, image: str | None) -> Item:
        return _item(text, image, image_root)

    for number, row in enumerate(read_rows(root, subset, "test", limit)):
        texts, images = row["tgt_text"], row["tgt_img_path"]
        if not texts or len(texts) != len(images):
            raise ValueError(
                f"row {number} of {subset} has {len(texts)} candidate texts and {len(images)} candidate images; "
                "both lists must have the same length, at least 1"
            )
        candidates = tuple(make(text, image) for text, image in zip(texts, images, strict=True))
        query, count = make(row["qry_text"], row["qry_img_path"]), count + 1
        if skipped is not None:
            if not (_is_usable(query, skipped) and _is_usable(candidates[0], skipped)):
                continue
            usable = tuple(item for item in candidates if _is_usable(item, skipped))
            dropped, candidates = dropped + len(candidates) - len(usable), usable
        rows.append(EvalRow(query, candidates))
    if dropped or len(rows) < count:
        logger.warning("%s: skipped %d of %d rows and %d candidates", subset, count - len(rows), count, dropped)
    return rows


def read_mmeb_train(root: Path, subset: str, image_root: Path, split: str = "original", limit: int = 0) -> list[Pair]:
    """Read the "original" or "diverse_instruction" split of a training subset, without its columns neg_*.

    As in read_mmeb_eval, pairs with a side that is listed in `skipped.json` or empty are left out.
    """
    skipped = skipped_images(image_root)
    pairs = [
        Pair(_item(query, query_image, image_root), _item(target, target_image, image_root))
        for query, query_image, target, target_image in (
            [row[name] for name in TRAIN_COLUMNS] for row in read_rows(root, subset, split, limit, TRAIN_COLUMNS)
        )
    ]
    if skipped is None:
        return pairs
    usable = [pair for pair in pairs if _is_usable(pair.query, skipped) and _is_usable(pair.target, skipped)]
    if len(usable) < len(pairs):
        logger.warning("%s: skipped %d of %d pairs", subset, len(pairs) - len(usable), len(pairs))
    return usable
