"""The papers' own data on disk: MMEB, SugarCrepe(++) with COCO's images, and what UniME needs besides.

`python -m g2e_lib download` brings what is missing, `... download verify` opens every file: both steps of notebook 00.
What is there is not asked for again, so that no network is needed then. Layout, as the readers want it:

    eval/<dataset>/test-*.parquet    train/<subset>/<split>-*.parquet    sugarcrepe/*.json    sugarcrepe_pp/*.json
    eval_images/<dataset>/...        images/<subset>/...                 val2017/*.jpg        sources.json
    nli/pair/<split>-*.parquet       urban1k/captions.json, image/*.jpg
"""

import argparse
import fnmatch
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq
from tqdm.auto import tqdm

from g2e_lib.data.archives import is_junk, read_captions, unpack
from g2e_lib.data.fetch import HubFolder, check_disk, fetch, read_note
from g2e_lib.data.images import open_image
from g2e_lib.data.selection import CREPE_FOLDER, CREPE_PP_FOLDER, EVAL, PARTS, TRAIN, Selection
from g2e_lib.data.sugarcrepe import SUGARCREPE, SUGARCREPE_PP, read_sugarcrepe, read_sugarcrepe_pp
from g2e_lib.project.config import DATA
from g2e_lib.project.store import write_json

MMEB_EVAL, MMEB_TRAIN = "TIGER-Lab/MMEB-eval", "TIGER-Lab/MMEB-train"
CREPE = "https://raw.githubusercontent.com/RAIVNLab/sugar-crepe/{revision}/data/{name}.json"
CREPE_PP = "https://raw.githubusercontent.com/Sri-Harsha/scpp/{revision}/data/{name}.json"
# Pairs of sentences that follow from each other (UniME's stage 1), and long captions (its retrieval).
NLI, URBAN = "sentence-transformers/all-nli", "BeichenZhang/Urban1k"
COCO = "http://images.cocodataset.org/zips/val2017.zip"
EVAL_IMAGES, COCO_FOLDER = "eval_images", "val2017"
# Folder, subsets and reader of the two sets about captions.
CREPES = ((CREPE_FOLDER, SUGARCREPE, read_sugarcrepe), (CREPE_PP_FOLDER, SUGARCREPE_PP, read_sugarcrepe_pp))
NLI_FOLDER, URBAN_FOLDER, URBAN_CAPTIONS = "nli", "urban1k", "captions.json"
NLI_FILES = {split: f"pair/{split}-00000-of-00001.parquet" for split in ("train", "dev")}
CREPE_URLS = {CREPE_FOLDER: CREPE, CREPE_PP_FOLDER: CREPE_PP}
REPOSITORIES = {EVAL: MMEB_EVAL, TRAIN: MMEB_TRAIN, NLI_FOLDER: NLI, URBAN_FOLDER: URBAN}
ARCHIVES, SOURCES, VERIFIED, ABSENT = ".archives", "sources.json", "verified.json", "absent.json"


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

    Keys are "eval/<dataset>", "train/<subset>", "sugarcrepe/<subset>", "sugarcrepe_pp/<subset>" and "urban1k"; paths
    are relative to the folder.
    """

    images: dict[str, list[str]] = field(default_factory=dict)  # by key the distinct ones there should be
    missing: dict[str, list[str]] = field(default_factory=dict)  # those that are not there, where there are any
    absent: set[str] = field(default_factory=set)  # what archives, looked into before, do not have
    files: list[str] = field(default_factory=list)  # missing tables, such as "eval/CIRR/test-*.parquet"

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return not (self.files or self.missing)

    @property
    def to_bring(self) -> dict[str, list[str]]:
        """`missing` without what cannot be had."""
        some = {key: [name for name in names if name not in self.absent] for key, names in self.missing.items()}
        return {key: names for key, names in some.items() if names}

    def lacks(self, folder: str) -> bool:
        """Whether something that can be had is missing in a folder."""
        return any(name.partition("/")[0] == folder for name in (*self.files, *self.to_bring))


def take_inventory(root: Path, selection: Selection) -> Inventory:
    """Compare a data folder with what is selected, without a network and without opening images."""
    found = Inventory()
    parts = [(EVAL, name, "test", f"{EVAL_IMAGES}/") for name in selection.all_datasets]
    parts += [(TRAIN, name, selection.split, "") for name in selection.all_subsets]
    for folder, name, split, prefix in parts:
        if paths := tables(root / folder / name, split):
            found.images[f"{folder}/{name}"] = [prefix + image for image in image_names(paths)]
        else:
            found.files.append(f"{folder}/{name}/{split}-*.parquet")
    for folder, names, read in CREPES if "sugarcrepe" in selection.parts else ():
        for name in names:
            if (root / folder / f"{name}.json").is_file():
                rows = read(root / folder, name, Path(COCO_FOLDER))
                found.images[f"{folder}/{name}"] = list(dict.fromkeys(row.image.as_posix() for row in rows))
            else:
                found.files.append(f"{folder}/{name}.json")
    if "unime" in selection.parts:
        captions = f"{URBAN_FOLDER}/{URBAN_CAPTIONS}"
        files = [*(f"{NLI_FOLDER}/{name}" for name in NLI_FILES.values()), captions]
        found.files += [name for name in files if not (root / name).is_file()]
        if captions not in found.files:
            found.images[URBAN_FOLDER] = [f"{URBAN_FOLDER}/{name}" for name in read_note(root / captions)]
    missing = {key: [name for name in names if not (root / name).is_file()] for key, names in found.images.items()}
    found.missing = {key: names for key, names in missing.items() if names}
    found.absent = {name for names in read_note(root / ABSENT).values() for name in names}
    return found


def download(root: Path, selection: Selection) -> Inventory:
    """Bring whatever is missing in the data folder; returns what then is: images that no archive has.

    Raises:
        ValueError: no network, too little disk, or something arrived damaged; calling again goes on where it stopped.
    """
    missing = take_inventory(root, selection)
    for file in missing.files:
        folder, _, name = file.partition("/")
        if folder in CREPE_URLS:
            url = CREPE_URLS[folder].format(revision=selection.revisions[folder], name=name.removesuffix(".json"))
            fetch(url, root / file)
    for folder in filter(missing.lacks, REPOSITORIES):
        hub = _open(root, folder, selection)
        _note_source(root, hub, selection.revisions.get(folder, "main"))
        if folder == URBAN_FOLDER:
            _bring_captions(root, hub)
        else:  # tables first, which say what images there are
            hub.get(_tables_of(folder, hub, missing), root / folder)
            _bring_images(root, folder, hub, take_inventory(root, selection))
    after = take_inventory(root, selection)
    photos = [name for key, names in after.to_bring.items() if key.startswith(CREPE_FOLDER) for name in names]
    if photos:
        _unpack(fetch(COCO, root / ARCHIVES / "val2017.zip"), root, photos)
    return take_inventory(root, selection)


def bytes_to_bring(root: Path, selection: Selection) -> int:
    """The size of the hub's files that `download` would get; ValueError if the hub cannot be asked."""
    missing, total = take_inventory(root, selection), 0
    keys = {*missing.to_bring, *(str(PurePosixPath(file).parent) for file in missing.files)}
    for folder in filter(missing.lacks, REPOSITORIES):
        hub = _open(root, folder, selection)
        archives = {_archive(key) for key in keys if key.startswith(f"{folder}/")}
        files = hub.sizes if folder == URBAN_FOLDER else archives.union(_tables_of(folder, hub, missing))
        total += sum(hub.sizes.get(name, 0) for name in files)
    return total


def _open(root: Path, folder: str, selection: Selection) -> HubFolder:
    """The repository of a folder, at the commit noted for its revision if there is one: data never change underfoot."""
    repository, revision = REPOSITORIES[folder], selection.revisions.get(folder, "main")
    noted = read_note(root / SOURCES).get(repository, {})
    return HubFolder(repository, noted["commit"] if noted.get("revision") == revision else revision)


def _note_source(root: Path, hub: HubFolder, revision: str) -> None:
    noted = read_note(root / SOURCES)
    if noted.get(hub.repository, {}).get("commit") != hub.commit:  # whose archives may have what others lack
        (root / ABSENT).unlink(missing_ok=True)
    write_json(root / SOURCES, noted | {hub.repository: {"revision": revision, "commit": hub.commit}})


def _tables_of(folder: str, hub: HubFolder, missing: Inventory) -> list[str]:
    """The files of a repository that are missing tables of a folder."""
    patterns = [file.removeprefix(f"{folder}/") for file in missing.files if file.startswith(f"{folder}/")]
    return [name for pattern in patterns for name in _found(hub, pattern)]


def _found(hub: HubFolder, pattern: str) -> list[str]:
    if names := fnmatch.filter(hub.sizes, pattern):
        return names
    raise ValueError(f"{hub.repository} at {hub.commit} has no {pattern}: check the revision")


def _archive(key: str) -> str:
    """The file of a repository that has the images of an evaluation dataset or a training subset."""
    folder, _, name = key.partition("/")
    return "images.zip" if folder == EVAL else f"images_zip/{name}.zip"


def _bring_images(root: Path, folder: str, hub: HubFolder, missing: Inventory) -> None:
    archives: dict[str, list[str]] = {}
    for key, names in missing.to_bring.items():
        if key.startswith(f"{folder}/"):
            archives.setdefault(_archive(key), []).extend(names)
    sizes = [hub.sizes[name] for archive in archives for name in _found(hub, archive)]
    check_disk(root, sum(sizes) + max(sizes, default=0))  # photos do not shrink: what is unpacked is as large
    for name, images in archives.items():
        _unpack(*hub.get([name], root / ARCHIVES / folder), root, images)


def _bring_captions(root: Path, hub: HubFolder) -> None:
    """Long captions, gathered from an archive's text files into one table, and its pictures."""
    archives = [name for name in hub.sizes if name.endswith(".zip")]
    if len(archives) != 1:
        raise ValueError(f"{hub.repository} at {hub.commit} has {len(archives)} zip files instead of one")
    check_disk(root, 2 * hub.sizes[archives[0]])
    (archive,) = hub.get(archives, root / ARCHIVES / URBAN_FOLDER)
    captions = read_captions(archive)
    unpack(archive, root / URBAN_FOLDER, captions)
    archive.unlink()
    write_json(root / URBAN_FOLDER / URBAN_CAPTIONS, captions)


def _unpack(archive: Path, root: Path, names: Sequence[str]) -> None:
    """Extract images; note what the archive turns out not to have, so that it is not fetched for that again."""
    unpack(archive, root, names)
    absent = sorted(name for name in names if not (root / name).is_file())
    write_json(root / ABSENT, read_note(root / ABSENT) | {archive.name: absent})
    archive.unlink()


def verify(root: Path, selection: Selection, threads: int = 8) -> dict[str, dict]:
    """Open every image, with some threads, and write what is missing or broken to `verified.json`.

    Returns:
        By key (see Inventory) the number of `images` there should be, the `missing` paths, and the `broken` ones, for
        each what is wrong with it.

    Raises:
        ValueError: a table is missing.
    """
    found = take_inventory(root, selection)
    if found.files:
        raise ValueError(f"{root} lacks {', '.join(found.files)}: run `python -m g2e_lib download`")

    def fault(name: str) -> str:
        try:
            open_image(root / name)
        except ValueError as error:
            return str(error).replace(f"{root}/", "")
        return ""

    paths = list(dict.fromkeys(name for some in found.images.values() for name in some if (root / name).is_file()))
    with ThreadPoolExecutor(threads) as pool:
        faults = tqdm(pool.map(fault, paths), total=len(paths), desc="verify", unit="image")
        wrong = {name: said for name, said in zip(paths, faults, strict=True) if said}
    result = {}
    for key, names in found.images.items():
        broken = {name: wrong[name] for name in names if name in wrong}
        result[key] = {"images": len(names), "missing": found.missing.get(key, []), "broken": broken}
    write_json(root / VERIFIED, read_note(root / VERIFIED) | result)  # other profiles' tables stay
    return result


def verified(root: Path, selection: Selection, is_fresh: bool = False) -> dict[str, dict]:
    """What `verify` finds, from its file if not `is_fresh` and that lists the same images, the same ones missing."""
    noted, found = read_note(root / VERIFIED), take_inventory(root, selection)
    now = {key: (len(names), found.missing.get(key, [])) for key, names in found.images.items()}
    then = {key: (facts["images"], facts["missing"]) for key, facts in noted.items() if key in now}
    is_known = now == then and not (found.files or is_fresh)
    return {key: noted[key] for key in now} if is_known else verify(root, selection)


def repair(root: Path, selection: Selection) -> Inventory:
    """Delete the images that `verify` found broken, and bring them and all that is missing, as `download` does."""
    for facts in read_note(root / VERIFIED).values():
        for name in facts["broken"]:
            (root / name).unlink(missing_ok=True)
    (root / ABSENT).unlink(missing_ok=True)
    return download(root, selection)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status: 0, 1 if something is missing or broken, 2 for an error."""
    parser = argparse.ArgumentParser(prog="python -m g2e_lib download", description="Bring or check the papers' data.")
    add = parser.add_argument
    add("what", nargs="?", default="download", choices=("download", "verify", "repair"))
    add("--root", type=Path, default=DATA, help="the data folder (default: mmeb in the cache)")
    add("--datasets", nargs="*", default=[], help="evaluation datasets (default: all)")
    add("--subsets", nargs="*", default=[], help="training subsets (default: all)")
    add("--split", default=Selection.split, help="of training subsets (default: %(default)s)")
    add("--parts", nargs="*", default=list(PARTS), help="besides MMEB's evaluation (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        selection = Selection(options.datasets, options.subsets, options.split, options.parts)
        if options.what == "verify":
            result = verify(options.root, selection)
            faults = {key: [*facts["missing"], *facts["broken"].values()] for key, facts in result.items()}
        else:
            faults = (repair if options.what == "repair" else download)(options.root, selection).missing
    except ValueError as error:
        print(f"download: {error}", file=sys.stderr)  # noqa: T201
        return 2
    lines = [f"{key}: {fault}" for key, some in faults.items() for fault in some]
    total = f"{len(lines)} images are missing or broken" if lines else f"{options.root} is complete"
    print(*lines, total, sep="\n")  # noqa: T201
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
