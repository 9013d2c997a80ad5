"""Files from the network: downloads that resume and check their size, and archives that are unpacked with suspicion."""

import json
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterable, Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, hf_hub_download
from tqdm.auto import tqdm

from g2e_lib.project.config import file_digest
from g2e_lib.project.store import atomic_path

ATTEMPTS, TIMEOUT, BLOCK = 5, 60, 1 << 20  # tries, seconds, bytes
MAX_RATIO = 100  # photos hardly compress; an archive that grows more than this is a bomb
GB = 1e9


def is_offline() -> bool:
    """Whether the user forbids network access."""
    return any(
        os.environ.get(name, "").lower() in ("1", "true", "yes", "on") for name in ("HF_HUB_OFFLINE", "G2E_OFFLINE")
    )


def mirrored(url: str) -> str:
    """The address to ask: G2E_MIRROR/host/path if that variable is set, else the address itself."""
    mirror = os.environ.get("G2E_MIRROR", "").rstrip("/")
    return f"{mirror}/{url.partition('://')[2]}" if mirror else url


def check_disk(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk cannot hold.

    Args:
        folder: where files will go; need not exist.
        needed: bytes.

    Raises:
        ValueError: too little is free.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ValueError(
            f"{folder} needs {needed / GB:.1f} GB, but its disk has {free / GB:.1f} GB free: free some, set G2E_CACHE "
            "to a folder on a larger disk, or take fewer subsets"
        )


# --- plain HTTP ----------------------------------------------------------------------------------------------------


def fetch(url: str, path: Path) -> Path:
    """Download a file, going on where an earlier attempt was cut off; one that is there is left as it is.

    Args:
        url: http(s); see `mirrored`.
        path: where it goes, put in place only when it is complete.

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
                partial.replace(path)
                return path
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
    is_complete = total is None or partial.stat().st_size == total
    if is_complete:
        tag_file.unlink()
    return is_complete


# --- the hub -------------------------------------------------------------------------------------------------------


class HubFolder:
    """The files of a dataset repository at one commit, and how to get them.

    Args:
        repository: "org/name".
        revision: commit, tag or branch.

    Raises:
        ValueError: offline, or the repository cannot be reached.
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
        self._digests = {file.rfilename: file.lfs.sha256 for file in info.siblings if file.lfs}

    def get(self, name: str, folder: Path) -> Path:
        """Download one file to `folder / name`, going on where it was cut off, and check size and checksum.

        Raises:
            ValueError: it cannot be had, or arrives damaged.
        """
        try:
            path = Path(
                hf_hub_download(
                    self.repository,
                    name,
                    repo_type="dataset",
                    revision=self.commit,
                    local_dir=folder,
                    endpoint=self._endpoint,
                )
            )
        except Exception as error:  # as above
            raise self._failure(name, error) from None
        expected = self._digests.get(name)
        if path.stat().st_size != self.sizes[name] or (expected and file_digest(path) != expected):
            path.unlink()
            raise ValueError(f"{name} of {self.repository} arrived damaged and was deleted: download it again")
        return path

    def _failure(self, what: str, error: Exception) -> ValueError:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return ValueError(
            f"cannot get {what} of {self.repository} from the hub ({lines[0]}): check the network, HF_ENDPOINT and the "
            "revision, and try again; what has arrived is kept"
        )


# --- archives ------------------------------------------------------------------------------------------------------


def is_junk(name: str) -> bool:
    """Whether a name is what macOS leaves in archives beside the files themselves.

    >>> is_junk("images/._1.jpg"), is_junk("__MACOSX/a/1.jpg"), is_junk("images/1.jpg")
    (True, True, False)
    """
    parts = PurePosixPath(name).parts
    return bool(parts) and (parts[-1].startswith("._") or parts[0] == "__MACOSX")


def safe_members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The files of an archive by name, without junk, after a look at all of its table of contents.

    Raises:
        ValueError: a name leads out of the target folder, a member is a link, or the content is implausibly large.
    """
    members = {}
    for member in archive.infolist():
        name = PurePosixPath(member.filename)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in "".join(name.parts[:1]):
            raise ValueError(f"archive {path} has the member {member.filename!r}, which leads out of it: do not use it")
        if stat.S_ISLNK(member.external_attr >> 16):
            raise ValueError(f"archive {path} has the link {member.filename!r}: do not use it")
        if not member.is_dir() and not is_junk(member.filename):
            members[member.filename] = member
    total = sum(member.file_size for member in members.values())
    if total > MAX_RATIO * path.stat().st_size:
        raise ValueError(
            f"archive {path} would grow from {path.stat().st_size / GB:.3f} to {total / GB:.3f} GB, which no archive "
            "of images does: do not use it"
        )
    return members


def placement(wanted: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Find wanted files in an archive whose folders may begin higher or lower than the wanted paths do.

    Args:
        wanted: paths.
        names: of the archive's files.

    Returns:
        For each wanted path that was found the archive's name for it.

    >>> placement(["images/a/1.jpg"], ["a/1.jpg", "b/1.jpg"]), placement(["a/1.jpg"], ["all/a/1.jpg", "all/1.jpg"])
    ({'images/a/1.jpg': 'a/1.jpg'}, {'a/1.jpg': 'all/a/1.jpg'})
    """
    wanted, names = list(wanted), set(names)
    by_file: dict[str, list[str]] = {}
    for name in names:
        by_file.setdefault(PurePosixPath(name).name, []).append(name)
    for path in wanted:  # the first one that is there tells how the two trees lie to each other
        alike = {name: _common_end(path, name) for name in by_file.get(PurePosixPath(path).name, [])}
        if alike:
            found = max(sorted(alike), key=alike.get)
            cut, added = path[: len(path) - alike[found]], found[: len(found) - alike[found]]
            if cut and added:
                continue
            moved = {one: added + one[len(cut) :] for one in wanted if one.startswith(cut)}
            return {one: name for one, name in moved.items() if name in names}
    return {}


def _common_end(one: str, other: str) -> int:
    """How many characters two paths share at their ends, in whole parts."""
    ours, theirs = one.split("/"), other.split("/")
    count = 0
    while count < min(len(ours), len(theirs)) and ours[-1 - count] == theirs[-1 - count]:
        count += 1
    return len("/".join(ours[len(ours) - count :]))


def unpack(path: Path, folder: Path, wanted: Iterable[str], show_progress: bool = True) -> int:
    """Extract wanted files, each atomically; see `placement` and `safe_members`.

    Args:
        path: a zip archive.
        folder: that wanted paths are relative to.
        wanted: paths; those that the archive lacks are left out.
        show_progress: draw a progress bar.

    Returns:
        How many were extracted.

    Raises:
        ValueError: the archive is damaged or not safe, or the disk is too small; nothing was written in the last cases.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = safe_members(archive, path)
            places = placement(wanted, members)
            check_disk(folder, sum(members[name].file_size for name in places.values()))
            for target, name in tqdm(places.items(), desc=path.name, unit="file", disable=not show_progress):
                with atomic_path(folder / target) as partial, archive.open(members[name]) as source:
                    partial.write_bytes(source.read(members[name].file_size))  # never more than the table says
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"archive {path} is damaged ({error}): delete it and download it again") from None
    return len(places)


def read_note(path: Path) -> dict:
    """A JSON object written by `write_note`, empty if there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def write_note(path: Path, value: Mapping) -> None:
    """Write a small JSON object atomically."""
    with atomic_path(path) as partial:
        partial.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
