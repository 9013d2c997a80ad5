"""What every build of GlyphWorld's data has: a folder named by what decides it, pictures, tables, and checksums."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from g2e_lib.glyphworld.datasets import Picture
from g2e_lib.project.config import file_digest, fingerprint
from g2e_lib.project.fingerprint import code_fingerprint

MANIFEST = "manifest.json"  # says what a build holds, with checksums


def build_folder(cache: Path, kind: str, module: str, *settings: object) -> Path:
    """The folder of a build of some kind, named by its settings and the code of the module that makes it."""
    return cache / f"{kind}-{fingerprint([*settings, code_fingerprint(module)])}"


def save_pictures(root: Path, pictures: Iterable[Picture], show_progress: bool = False) -> None:
    """Draw pictures into `root`, each file once."""
    (root / "images").mkdir(parents=True, exist_ok=True)
    files = {picture.path: picture for picture in pictures}
    for picture in tqdm(files.values(), desc="draw", unit="image", disable=not show_progress):
        picture.save(root)


def write_table(path: Path, records: Iterable[Mapping[str, Any]], schema: pa.Schema) -> None:
    """Write a parquet file; columns that a record lacks are empty texts."""
    empty = dict.fromkeys(schema.names, "")
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([empty | dict(record) for record in records], schema)
    pq.write_table(table, path, compression="none")  # no compressor's choices


def digests(root: Path, *patterns: str) -> dict[str, str]:
    """The checksum of every file that fits a pattern, by path below `root`, in order."""
    paths = sorted(path for pattern in patterns for path in root.glob(pattern))
    return {path.relative_to(root).as_posix(): file_digest(path) for path in paths}


def identity(root: Path) -> str:
    """What a build is called in provenance: the digest of its manifest, which has the checksum of every file."""
    return file_digest(root / MANIFEST)[:16]
