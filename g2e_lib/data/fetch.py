"""Files from the network: downloads that resume, and are checked for their size and checksum."""

import glob
import json
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download

from g2e_lib.project.config import file_digest

ATTEMPTS, TIMEOUT, BLOCK = 5, 60, 1 << 20  # tries, seconds, bytes
GB = 1e9


def is_offline() -> bool:
    """Whether the user forbids network access."""
    values = (os.environ.get(name, "").lower() for name in ("HF_HUB_OFFLINE", "G2E_OFFLINE"))
    return any(value in ("1", "true", "yes", "on") for value in values)


def mirrored(url: str) -> str:
    """The address to ask: G2E_MIRROR/host/path if that variable is set."""
    mirror = os.environ.get("G2E_MIRROR", "").rstrip("/")
    return f"{mirror}/{url.partition('://')[2]}" if mirror else url


def read_note(path: Path) -> dict:
    """A JSON object, empty if there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def check_disk(folder: Path, needed: int) -> None:
    """Raise ValueError if the disk of a folder, which need not exist, has less than the needed bytes free."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        remedy = "free some, set G2E_CACHE to a folder on a larger disk, or take fewer subsets"
        raise ValueError(f"{folder} needs {needed / GB:.1f} GB, but its disk has {free / GB:.1f} GB free: {remedy}")


def fetch(url: str, path: Path) -> Path:
    """Download a file that is not there, going on where an earlier attempt was cut off; see `mirrored`.

    Raises:
        ValueError: offline, refused, or incomplete after several attempts; the message names the address.
    """
    if path.exists():
        return path
    if is_offline():
        raise ValueError(f"{path} is missing and the network is switched off: unset HF_HUB_OFFLINE, or copy it there")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, reason = path.with_name(f"{path.name}.part"), ""
    for attempt in range(ATTEMPTS):
        try:
            if _go_on(mirrored(url), partial):
                return partial.replace(path)
            reason = "the connection was cut"
        except urllib.error.HTTPError as error:
            reason = f"HTTP {error.code}"
            if error.code == 416:  # the part is longer than the file: it belongs to another version
                partial.unlink(missing_ok=True)
            elif error.code < 500:
                break
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
        time.sleep(min(2**attempt - 1, 10))
    raise ValueError(f"cannot download {url} ({reason}): check the network and try again, what has arrived is kept")


def _go_on(url: str, partial: Path) -> bool:
    """Append what is missing to a partial file; returns whether it is complete."""
    tag_file = partial.with_name(f"{partial.name}.tag")
    have = partial.stat().st_size if partial.exists() and tag_file.exists() else 0
    headers = {"Range": f"bytes={have}-", "If-Range": tag_file.read_text()} if have else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        have = have if answer.status == 206 else 0
        total = have + int(answer.headers["Content-Length"]) if answer.headers["Content-Length"] else None
        check_disk(partial.parent, (total or 0) - have)
        tag_file.write_text(answer.headers.get("ETag") or answer.headers.get("Last-Modified") or "")
        with partial.open("ab" if have else "wb") as file:
            shutil.copyfileobj(answer, file, BLOCK)
    if total is not None and partial.stat().st_size != total:
        return False
    tag_file.unlink()
    return True


class HubFolder:
    """The files of a dataset repository ("org/name") at one commit: `sizes` (bytes) by name, and `get`.

    Raises:
        ValueError: offline, or the repository or the revision (commit, tag or branch) cannot be had.
    """

    def __init__(self, repository: str, revision: str) -> None:
        self.repository = repository
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        if is_offline():
            raise ValueError(f"files of {repository} are missing and the network is switched off: unset HF_HUB_OFFLINE")
        try:
            info = HfApi(self._endpoint).dataset_info(repository, revision=revision, files_metadata=True)
        except Exception as error:  # the client raises its own, the hub's, and those of the HTTP library below
            raise self._failure(f"revision {revision}", error) from None
        self.commit = info.sha
        self.sizes = {file.rfilename: file.size or 0 for file in info.siblings}
        self.digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}

    def get(self, names: Sequence[str], folder: Path) -> list[Path]:
        """Download files to `folder / name`, going on where it was cut off, and check sizes and checksums.

        Raises:
            ValueError: the disk is too small, or one cannot be had or arrives damaged.
        """
        if not names:
            return []
        check_disk(folder, sum(self.sizes[name] for name in names))
        wanted = {"revision": self.commit, "allow_patterns": [glob.escape(name) for name in names]}
        to = {"local_dir": folder, "endpoint": self._endpoint}
        try:
            snapshot_download(self.repository, repo_type="dataset", **wanted, **to)
        except Exception as error:  # as above
            others = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise self._failure(f"{names[0]}{others}", error) from None
        return [self._checked(folder, name) for name in names]

    def _checked(self, folder: Path, name: str) -> Path:
        path, expected = folder / name, self.digests.get(name)
        if not path.exists():  # the client goes on without a network where it has something
            raise self._failure(name, FileNotFoundError("it did not arrive"))
        if path.stat().st_size != self.sizes[name] or (expected and file_digest(path) != expected):
            path.unlink()
            raise ValueError(f"{name} of {self.repository} arrived damaged and was deleted: download it again")
        return path

    def _failure(self, what: str, error: Exception) -> ValueError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        remedy = "check the network, HF_ENDPOINT and the revision, and try again; what has arrived is kept"
        return ValueError(f"cannot get {what} of {self.repository} from the hub ({reason}): {remedy}")
