"""Zip archives, unpacked with suspicion."""

import stat
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from g2e_lib.data.fetch import GB, check_disk
from g2e_lib.project.store import atomic_path

MAX_RATIO = 100  # photos hardly compress; an archive that grows more than this is a bomb


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """An archive to read from; ValueError if it turns out to be damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"archive {path} is damaged ({error}): delete it and download it again") from None


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
    packed, total = path.stat().st_size, sum(member.file_size for member in members.values())
    if total > MAX_RATIO * packed:
        growth = f"would grow from {packed / GB:.3f} to {total / GB:.3f} GB, which no archive of images does"
        raise ValueError(f"archive {path} {growth}: do not use it")
    return members


def placement(paths: Iterable[str], names: Iterable[str]) -> dict[str, str]:
    """Where files are in an archive whose folders may begin higher or lower: by path the archive's name, if found.

    >>> placement(["images/a/1.jpg"], ["a/1.jpg", "b/1.jpg"]), placement(["a/1.jpg"], ["all/a/1.jpg", "all/1.jpg"])
    ({'images/a/1.jpg': 'a/1.jpg'}, {'a/1.jpg': 'all/a/1.jpg'})
    """
    paths, names = list(paths), set(names)
    by_file: dict[str, list[str]] = {}
    for name in sorted(names):
        by_file.setdefault(PurePosixPath(name).name, []).append(name)
    for path in paths:  # the first one that is there tells how the two trees lie to each other
        if alike := by_file.get(PurePosixPath(path).name):
            shared, found = max(((_shared_end(path, name), name) for name in alike), key=lambda pair: pair[0])
            cut, added = path[: len(path) - shared], found[: len(found) - shared]
            if cut and added:
                continue
            moved = {other: added + other[len(cut) :] for other in paths if other.startswith(cut)}
            return {other: name for other, name in moved.items() if name in names}
    return {}


def _shared_end(path: str, other: str) -> int:
    """How many characters two paths share at their ends, in whole parts."""
    parts = zip(reversed(path.split("/")), reversed(other.split("/")), strict=False)
    return len("/".join(part for part, _ in takewhile(lambda pair: pair[0] == pair[1], parts)))


def unpack(path: Path, folder: Path, paths: Iterable[str]) -> int:
    """Extract the files that the archive has, each atomically, to `folder / path`; returns how many they are.

    Raises:
        ValueError: the archive is damaged or not safe, or the disk is too small; nothing was written in the last cases.
    """
    with _opened(path) as archive:
        members = safe_members(archive, path)
        places = placement(paths, members)
        check_disk(folder, sum(members[name].file_size for name in places.values()))
        for target, name in tqdm(places.items(), desc=path.name, unit="file"):
            with atomic_path(folder / target) as partial, archive.open(members[name]) as source:
                partial.write_bytes(source.read(members[name].file_size))  # never more than the table says
    return len(places)


def read_captions(path: Path) -> dict[str, str]:
    """The captions of an archive of caption/NAME.txt and image/NAME.jpg, by "image/NAME.jpg"; raises as unpack does."""
    with _opened(path) as archive:
        members = {PurePosixPath(name): member for name, member in safe_members(archive, path).items()}
        texts = {
            name.stem: archive.read(member).decode("utf-8").strip()
            for name, member in members.items()
            if name.parent.name == "caption" and name.suffix == ".txt"
        }
    names = {name.stem for name in members if name.parent.name == "image"} & set(texts)
    if not names:
        raise ValueError(f"archive {path} has no files caption/NAME.txt beside image/NAME.jpg: check its repository")
    return dict(sorted((f"image/{name}.jpg", texts[name]) for name in names))
