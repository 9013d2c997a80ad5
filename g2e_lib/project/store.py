"""A content-addressed cache of embeddings and results.

An entry is found by the fingerprint of everything that determines it (its key), so a changed prompt, model, image
setting or data file is a new entry and never an old number. Files are replaced atomically and hold safetensors or
JSON, never pickles.
"""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from g2e_lib.project.config import fingerprint


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it replaces `path` on success and vanishes on failure."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    partial = Path(name)
    try:
        yield partial
        partial.chmod(0o644)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Make a folder, and return it; a half-written one is never seen.

    Args:
        folder: where it belongs; if it is there, nothing is done.
        build: writes its content into the folder it is given, which is beside it and does not exist yet.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".building-") as partial:
            build(Path(partial) / folder.name)
            (Path(partial) / folder.name).replace(folder)
    return folder


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, UTF-8 with Unix line ends."""
    with atomic_path(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Write a JSON file atomically, in a stable and readable form."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path, made_by: str) -> Any:  # noqa: ANN401
    """Read a JSON result.

    Raises:
        ValueError: the file is missing or not JSON; the message names `made_by`, what to run then.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: run {made_by} first, which writes it") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): delete it and run {made_by} again") from None


class Store:
    """Arrays and JSON values by key: everything that they depend on, JSON-like, which is stored beside them.

    Args:
        folder: where entries live; made when the first one is written.
        is_fresh: ignore entries written before this object was made (`run_all.sh --fresh`), and replace them.
    """

    def __init__(self, folder: Path, is_fresh: bool = False) -> None:
        self.folder, self.is_fresh = folder, is_fresh
        self._written: set[Path] = set()

    def path(self, key: dict[str, Any], suffix: str = ".safetensors") -> Path:
        """Where the entry of `key` is, whether or not it exists; JSON values have the suffix ".json"."""
        return self.folder / f"{fingerprint(key)}{suffix}"

    def _may_read(self, path: Path) -> bool:
        return path.exists() and (not self.is_fresh or path in self._written)

    def array(self, key: dict[str, Any], compute: Callable[[], np.ndarray]) -> np.ndarray:
        """Return the stored array of `key`, or, where there is no readable one, compute, store and return it."""
        from safetensors import SafetensorError  # here, so that reports need no safetensors
        from safetensors.numpy import load_file, save_file

        path = self.path(key)
        if self._may_read(path):
            try:
                return load_file(path)["array"]
            except (SafetensorError, KeyError):
                pass  # damaged by something outside our control: compute it again
        array = np.ascontiguousarray(compute())
        with atomic_path(path) as partial:
            save_file({"array": array}, partial, metadata={"key": json.dumps(key, sort_keys=True, default=str)})
        self._written.add(path)
        return array

    def json(self, key: dict[str, Any], compute: Callable[[], Any]) -> Any:  # noqa: ANN401
        """The same for a JSON value; what `compute` returns comes back as JSON reads it."""
        path = self.path(key, ".json")
        if self._may_read(path):
            try:
                return json.loads(path.read_text(encoding="utf-8"))["value"]
            except (json.JSONDecodeError, KeyError):
                pass  # as above
        write_json(path, {"key": key, "value": compute()})
        self._written.add(path)
        return json.loads(path.read_text(encoding="utf-8"))["value"]
