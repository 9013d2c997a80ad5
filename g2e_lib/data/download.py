"""The papers' own data on disk: MMEB, SugarCrepe(++) with COCO's images, and what UniME needs besides.

`python -m g2e_lib download` brings them, `python -m g2e_lib download verify` opens every file. Both are steps of
notebook 00. What is there is not asked for again, so repairing is downloading once more, and without a network
everything goes on as long as nothing is missing. Layout, as the readers want it:

    eval/<dataset>/test-*.parquet    train/<subset>/<split>-*.parquet    sugarcrepe/*.json    sugarcrepe_pp/*.json
    eval_images/<dataset>/...        images/<subset>/...                 val2017/*.jpg        sources.json
    nli/pair/<split>-*.parquet       urban1k/captions.json, image/*.jpg
"""

import argparse
import sys
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from g2e_lib.data.fetch import HubFolder, check_disk, fetch, is_junk, read_note, safe_members, unpack, write_note
from g2e_lib.data.images import open_image
from g2e_lib.data.mmeb import TRAIN_NAMES
from g2e_lib.data.sugarcrepe import SUGARCREPE, SUGARCREPE_PP, read_sugarcrepe, read_sugarcrepe_pp
from g2e_lib.project.config import DATA
from g2e_lib.project.published import reference

MMEB_EVAL, MMEB_TRAIN = "TIGER-Lab/MMEB-eval", "TIGER-Lab/MMEB-train"
CREPE = "https://raw.githubusercontent.com/RAIVNLab/sugar-crepe/{revision}/data/{name}.json"
CREPE_PP = "https://raw.githubusercontent.com/Sri-Harsha/scpp/{revision}/data/{name}.json"
# Pairs of sentences that follow from each other (UniME's stage 1), and long captions (its retrieval).
NLI, URBAN = "sentence-transformers/all-nli", "BeichenZhang/Urban1k"
COCO = "http://images.cocodataset.org/zips/val2017.zip"
EVAL, TRAIN, EVAL_IMAGES, IMAGES = "eval", "train", "eval_images", "images"
CREPE_FOLDER, CREPE_PP_FOLDER, COCO_FOLDER = "sugarcrepe", "sugarcrepe_pp", "val2017"
# Folder, subsets and reader of the two sets about captions.
CREPES = ((CREPE_FOLDER, SUGARCREPE, read_sugarcrepe), (CREPE_PP_FOLDER, SUGARCREPE_PP, read_sugarcrepe_pp))
NLI_FOLDER, URBAN_FOLDER, URBAN_CAPTIONS = "nli", "urban1k", "captions.json"
NLI_FILES = {split: f"pair/{split}-00000-of-00001.parquet" for split in ("train", "dev")}
PARTS = ("training", "sugarcrepe", "unime")  # besides MMEB's evaluation
ARCHIVES, SOURCES, VERIFIED, ABSENT = ".archives", "sources.json", "verified.json", "absent.json"


@dataclass(frozen=True)
class Wanted:
    """What to download.

    Attributes:
        datasets: evaluation datasets of MMEB; none means all 36.
        subsets: training subsets of MMEB; none means all 20.
        split: of the training subsets.
        parts: what is wanted besides MMEB's evaluation: "training" (MMEB's), "sugarcrepe" (both sets and their
            images), "unime" (its sentences for stage 1 and its long captions).
        eval_revision: commit, tag or branch of MMEB-eval. The commit it stands for is noted at the first download
            and kept from then on.
        train_revision: likewise of MMEB-train.
        crepe_revision: of SugarCrepe's repository.
        crepe_pp_revision: of SugarCrepe++'s repository.
        keeps_archives: keep zip files after their images are extracted.
    """

    datasets: Sequence[str] = ()
    subsets: Sequence[str] = ()
    split: str = "diverse_instruction"
    parts: Sequence[str] = PARTS
    eval_revision: str = "main"
    train_revision: str = "main"
    crepe_revision: str = "main"
    crepe_pp_revision: str = "main"
    keeps_archives: bool = False

    def __post_init__(self) -> None:
        for kind, names, known in (
            ("dataset", self.datasets, reference_names()),
            ("training subset", self.subsets, training_names()),
            ("part", self.parts, PARTS),
        ):
            if unknown := [name for name in names if name not in known]:
                raise ValueError(f"MMEB has no {kind} {unknown[0]!r}: choose among {', '.join(known)}")

    @property
    def all_datasets(self) -> list[str]:
        """Names of the evaluation datasets."""
        return list(self.datasets or reference_names())

    @property
    def all_subsets(self) -> list[str]:
        """Names of the training subsets, as MMEB-train spells them."""
        return list(self.subsets or training_names()) if "training" in self.parts else []


def reference_names(distribution: str = "") -> list[str]:
    """MMEB's evaluation datasets, all or those of a distribution ("IND", "OOD")."""
    table = reference("mmeb_datasets")
    return table.dataset[table.distribution.str.contains(distribution)].tolist()


def training_names() -> list[str]:
    """The training subsets of MMEB, as MMEB-train spells them."""
    return [TRAIN_NAMES.get(name, name) for name in reference_names("IND")]


# --- what is missing -----------------------------------------------------------------------------------------------


def tables(folder: Path, split: str) -> list[Path]:
    """The parquet files of a split, empty unless all of "…-of-0000N" are there."""
    files = sorted(path for path in folder.glob(f"{split}-*.parquet") if not is_junk(path.name))
    total = int(files[0].stem.rpartition("-of-")[2]) if files and "-of-" in files[0].stem else len(files)
    return files if len(files) == total else []


def image_names(files: Iterable[Path]) -> list[str]:
    """The distinct image paths in MMEB tables, in order of appearance."""
    names: dict[str, None] = {}
    for file in files:
        columns = [name for name in pq.read_schema(file).names if name.endswith(("img_path", "image_path"))]
        for column in pq.read_table(file, columns=[c for c in columns if not c.startswith("neg_")]).columns:
            values = column.combine_chunks()
            values = values.flatten() if hasattr(values, "flatten") and values.type.num_fields else values
            names.update(dict.fromkeys(value for value in values.to_pylist() if value))
    return list(names)


@dataclass
class Inventory:
    """What a folder should hold and what it lacks.

    Keys are "eval/<dataset>", "train/<subset>", "sugarcrepe/<subset>", "sugarcrepe_pp/<subset>" and "urban1k".

    Attributes:
        images: by key the distinct images there should be, relative to the data folder.
        missing: by key those of them that are not there; keys without any are left out.
        absent: those of the missing ones that their archive, looked into before, does not have.
        tables: by key the split whose parquet files are not there.
        files: other files that are not there.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    missing: dict[str, list[str]] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    tables: dict[str, str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not (self.tables or self.files or self.missing)

    @property
    def to_bring(self) -> dict[str, list[str]]:
        """`missing` without what cannot be had."""
        some = {key: [name for name in names if name not in self.absent] for key, names in self.missing.items()}
        return {key: names for key, names in some.items() if names}


def take_inventory(root: Path, wanted: Wanted) -> Inventory:
    """Compare a data folder with what is wanted, without a network and without opening images."""
    found = Inventory()
    parts = [(EVAL, name, "test", f"{EVAL_IMAGES}/") for name in wanted.all_datasets]
    parts += [(TRAIN, name, wanted.split, "") for name in wanted.all_subsets]
    for folder, name, split, prefix in parts:
        if files := tables(root / folder / name, split):
            found.images[f"{folder}/{name}"] = [prefix + one for one in image_names(files)]
        else:
            found.tables[f"{folder}/{name}"] = split
    for folder, names, read in CREPES if "sugarcrepe" in wanted.parts else ():
        for name in names:
            if (root / folder / f"{name}.json").is_file():
                rows = read(root / folder, name, Path(COCO_FOLDER))
                found.images[f"{folder}/{name}"] = list(dict.fromkeys(row.image.as_posix() for row in rows))
            else:
                found.files.append(f"{folder}/{name}.json")
    if "unime" in wanted.parts:
        files = [f"{NLI_FOLDER}/{name}" for name in NLI_FILES.values()]
        captions = root / URBAN_FOLDER / URBAN_CAPTIONS
        found.files += [one for one in (*files, f"{URBAN_FOLDER}/{URBAN_CAPTIONS}") if not (root / one).is_file()]
        if captions.is_file():
            found.images[URBAN_FOLDER] = [f"{URBAN_FOLDER}/{name}" for name in read_note(captions)]
    for key, names in found.images.items():
        if missing := [name for name in names if not (root / name).is_file()]:
            found.missing[key] = missing
    found.absent = {name for names in read_note(root / ABSENT).values() for name in names}
    return found


# --- bring it ------------------------------------------------------------------------------------------------------


def download(root: Path, wanted: Wanted) -> Inventory:
    """Bring whatever is missing, and nothing else.

    Args:
        root: the data folder; made if need be.
        wanted: what should be in it.

    Returns:
        What is still missing: images that no archive has.

    Raises:
        ValueError: no network, too little disk, or something arrived damaged; calling again goes on where it stopped.
    """
    missing = take_inventory(root, wanted)
    if not (missing.tables or missing.files or missing.to_bring):
        return missing
    for name in missing.files:
        folder, _, file = name.partition("/")
        if folder not in (CREPE_FOLDER, CREPE_PP_FOLDER):
            continue
        url, revision = (
            (CREPE, wanted.crepe_revision) if folder == CREPE_FOLDER else (CREPE_PP, wanted.crepe_pp_revision)
        )
        fetch(url.format(revision=revision, name=file.removesuffix(".json")), root / name)
    for folder, repository, revision in (
        (EVAL, MMEB_EVAL, wanted.eval_revision),
        (TRAIN, MMEB_TRAIN, wanted.train_revision),
    ):
        if any(key.startswith(f"{folder}/") for key in (*missing.tables, *missing.to_bring)):
            _bring_mmeb(root, folder, _hub(root, repository, revision), wanted, missing)
    _bring_unime(root, missing)
    missing = take_inventory(root, wanted)
    photos = [one for key, some in missing.to_bring.items() if key.startswith("sugarcrepe") for one in some]
    if photos:
        archive = fetch(COCO, root / ARCHIVES / "val2017.zip")
        _unpack(archive, root, photos, wanted.keeps_archives)
    return take_inventory(root, wanted)


def bytes_to_bring(root: Path, wanted: Wanted) -> int:
    """The size of the hub's files that `download` would get, as the hub states it.

    Raises:
        ValueError: the hub cannot be asked.
    """
    missing, total = take_inventory(root, wanted), 0
    for folder, repository, revision in (
        (EVAL, MMEB_EVAL, wanted.eval_revision),
        (TRAIN, MMEB_TRAIN, wanted.train_revision),
    ):
        names = {key.partition("/")[2] for key in (*missing.tables, *missing.to_bring) if key.startswith(f"{folder}/")}
        if names:
            sizes = _hub(root, repository, revision).sizes
            files = {one for one in sizes if one.partition("/")[0] in names and one.endswith(".parquet")}
            files |= {_archive(folder, name) for name in names}
            total += sum(sizes.get(one, 0) for one in files)
    for repository, folder in ((NLI, NLI_FOLDER), (URBAN, URBAN_FOLDER)):
        if _lacks(missing, folder):
            sizes = _hub(root, repository).sizes
            total += sum(sizes.get(one, 0) for one in (NLI_FILES.values() if repository == NLI else sizes))
    return total


def _lacks(missing: Inventory, folder: str) -> bool:
    return folder in missing.to_bring or any(name.startswith(f"{folder}/") for name in missing.files)


def _archive(folder: str, name: str) -> str:
    """The file of a repository that has the images of an evaluation dataset or a training subset."""
    return "images.zip" if folder == EVAL else f"images_zip/{name}.zip"


def _hub(root: Path, repository: str, revision: str = "main") -> HubFolder:
    """A repository at the commit that was noted for it, if there is one."""
    return HubFolder(repository, _pinned(root, repository, revision))


def _pinned(root: Path, repository: str, revision: str) -> str:
    """The commit noted for this repository and revision, if there is one, so that data never change underfoot."""
    noted = read_note(root / SOURCES).get(repository, {})
    return noted["commit"] if noted.get("revision") == revision else revision


def _note_source(root: Path, hub: HubFolder, revision: str = "main") -> None:
    noted = read_note(root / SOURCES)
    if noted.get(hub.repository, {}).get("commit") != hub.commit:  # whose archives may have what others lack
        (root / ABSENT).unlink(missing_ok=True)
    write_note(root / SOURCES, noted | {hub.repository: {"revision": revision, "commit": hub.commit}})


def _bring_unime(root: Path, missing: Inventory) -> None:
    """Sentences as the hub has them; long captions gathered from an archive's text files into one table."""
    if _lacks(missing, NLI_FOLDER):
        hub = _hub(root, NLI)
        _note_source(root, hub)
        for name in NLI_FILES.values():
            hub.get(name, root / NLI_FOLDER)
    if _lacks(missing, URBAN_FOLDER):
        hub = _hub(root, URBAN)
        _note_source(root, hub)
        archives = [name for name in hub.sizes if name.endswith(".zip")]
        if len(archives) != 1:
            raise ValueError(f"{URBAN} at {hub.commit} has {len(archives)} zip files instead of one")
        check_disk(root, 2 * hub.sizes[archives[0]])
        archive = hub.get(archives[0], root / ARCHIVES / URBAN_FOLDER)
        captions = read_captions(archive)
        unpack(archive, root / URBAN_FOLDER, list(captions))
        archive.unlink()
        write_note(root / URBAN_FOLDER / URBAN_CAPTIONS, captions)


def read_captions(archive: Path) -> dict[str, str]:
    """The captions of an archive with files caption/NAME.txt and image/NAME.jpg, by "image/NAME.jpg".

    Raises:
        ValueError: it is damaged, not safe to open, or has no such pairs.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = safe_members(opened, archive)
            pictures = {PurePosixPath(name).stem for name in members if PurePosixPath(name).parent.name == "image"}
            texts = {
                PurePosixPath(name).stem: opened.read(member).decode("utf-8").strip()
                for name, member in members.items()
                if PurePosixPath(name).parent.name == "caption" and name.endswith(".txt")
            }
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise ValueError(f"archive {archive} is damaged ({error}): delete it and download it again") from None
    names = pictures & set(texts)
    if not names:
        raise ValueError(f"archive {archive} has no files caption/NAME.txt beside image/NAME.jpg: check {URBAN}")
    return {f"image/{name}.jpg": texts[name] for name in names}


def _bring_mmeb(root: Path, folder: str, hub: HubFolder, wanted: Wanted, missing: Inventory) -> None:
    """Tables first, which say what images there are, then the archives of missing images."""
    _note_source(root, hub, wanted.eval_revision if folder == EVAL else wanted.train_revision)
    for key, split in missing.tables.items():
        place, _, name = key.partition("/")
        if place != folder:
            continue
        files = [one for one in hub.sizes if one.startswith(f"{name}/{split}-") and one.endswith(".parquet")]
        if not files:
            raise ValueError(f"{hub.repository} at {hub.commit} has no {name}/{split}-*.parquet: check the revision")
        check_disk(root, sum(hub.sizes[one] for one in files))
        for one in files:
            hub.get(one, root / folder)
    archives: dict[str, list[str]] = {}
    for key, some in take_inventory(root, wanted).to_bring.items():
        if not key.startswith(f"{folder}/"):
            continue
        archives.setdefault(_archive(folder, key.partition("/")[2]), []).extend(some)
    absent = [name for name in archives if name not in hub.sizes]
    if absent:
        raise ValueError(f"{hub.repository} at {hub.commit} has no {absent[0]}: check the revision")
    largest = max((hub.sizes[name] for name in archives), default=0)  # photos do not shrink: unpacked is as large
    kept = sum(hub.sizes[name] for name in archives) if wanted.keeps_archives else largest
    check_disk(root, kept + sum(hub.sizes[name] for name in archives))
    for name, some in archives.items():
        _unpack(hub.get(name, root / ARCHIVES / folder), root, some, wanted.keeps_archives)


def _unpack(archive: Path, root: Path, names: Sequence[str], keeps_archive: bool) -> None:
    """Extract what is wanted; note what the archive turns out not to have, so that it is not fetched for that again."""
    unpack(archive, root, names)
    absent = sorted(name for name in names if not (root / name).is_file())
    write_note(root / ABSENT, read_note(root / ABSENT) | {archive.name: absent})
    if not keeps_archive:
        archive.unlink()


# --- verify --------------------------------------------------------------------------------------------------------


def verify(root: Path, wanted: Wanted, threads: int = 8) -> dict[str, dict]:
    """Open every file, and write what is missing or broken to `verified.json`.

    Args:
        root: the data folder.
        wanted: what should be in it.
        threads: that open images.

    Returns:
        By table (such as "eval/MSCOCO_t2i"): `images`, how many there should be; `missing`, paths; `broken`, for each
        path what is wrong with it.

    Raises:
        ValueError: a table is missing.
    """
    found = take_inventory(root, wanted)
    if absent := [*found.tables, *found.files]:
        raise ValueError(f"{root} lacks {', '.join(absent)}: run `python -m g2e_lib download`")

    def look(name: str) -> tuple[str, str]:
        try:
            open_image(root / name)
        except ValueError as error:
            return name, str(error).replace(f"{root}/", "")
        return name, ""

    every = list(dict.fromkeys(one for some in found.images.values() for one in some if (root / one).is_file()))
    with ThreadPoolExecutor(threads) as pool:
        wrong = dict(tqdm(pool.map(look, every), total=len(every), desc="verify", unit="image"))
    result = {
        key: {
            "images": len(some),
            "missing": found.missing.get(key, []),
            "broken": {one: wrong[one] for one in some if wrong.get(one)},
        }
        for key, some in found.images.items()
    }
    write_note(root / VERIFIED, read_note(root / VERIFIED) | result)  # other profiles' tables stay
    return result


def verified(root: Path, wanted: Wanted, is_fresh: bool = False) -> dict[str, dict]:
    """What `verify` found, from its file if that lists the same images and the same ones are missing.

    Args:
        root: the data folder.
        wanted: what should be in it.
        is_fresh: open every image again.

    Raises:
        ValueError: as verify.
    """
    noted, found = read_note(root / VERIFIED), take_inventory(root, wanted)
    now = {key: (len(some), found.missing.get(key, [])) for key, some in found.images.items()}
    then = {key: (one["images"], one["missing"]) for key, one in noted.items() if key in now}
    is_known = now == then and not (found.tables or found.files or is_fresh)
    return {key: noted[key] for key in now} if is_known else verify(root, wanted)


def repair(root: Path, wanted: Wanted) -> Inventory:
    """Delete the images that `verify` found broken, and bring them and all that is missing, if any archive has it.

    Returns:
        What is still missing.

    Raises:
        ValueError: as download.
    """
    for one in read_note(root / VERIFIED).values():
        for name in one["broken"]:
            (root / name).unlink(missing_ok=True)
    (root / ABSENT).unlink(missing_ok=True)
    return download(root, wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status: 0, 1 if something is missing or broken, 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m g2e_lib download", description="Bring or check the papers' data.")
    parser.add_argument("what", nargs="?", default="download", choices=("download", "verify", "repair"))
    parser.add_argument("--root", type=Path, default=DATA, help="the data folder (default: mmeb in the cache)")
    parser.add_argument("--datasets", nargs="*", default=[], help="evaluation datasets (default: all)")
    parser.add_argument("--subsets", nargs="*", default=[], help="training subsets (default: all)")
    parser.add_argument("--split", default=Wanted.split, help=f"of training subsets (default: {Wanted.split})")
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), help=f"besides MMEB's evaluation (default: {' '.join(PARTS)})"
    )
    options = parser.parse_args(arguments)
    try:
        wanted = Wanted(options.datasets, options.subsets, options.split, options.parts)
        if options.what == "verify":
            result = verify(options.root, wanted)
            faults = {key: [*one["missing"], *one["broken"].values()] for key, one in result.items()}
        else:
            faults = (repair if options.what == "repair" else download)(options.root, wanted).missing
    except ValueError as error:
        print(f"download: {error}", file=sys.stderr)  # noqa: T201
        return 2
    for key, some in faults.items():
        print(*(f"{key}: {one}" for one in some), sep="\n", end="\n" if some else "")  # noqa: T201
    total = sum(map(len, faults.values()))
    print(f"{total} images are missing or broken" if total else f"{options.root} is complete")  # noqa: T201
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
