"""MMEB-mini: the datasets of datasets.py in MMEB's own row format, built to the byte, read back, and verified.

All other targets of a dataset are candidates of a row, except those that `matches` says would be right answers too.
"""

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tqdm.auto import tqdm

from g2e_lib.data.items import EvalRow
from g2e_lib.data.mmeb import EVAL_SCHEMA, TRAIN_SCHEMA, read_mmeb_eval
from g2e_lib.glyphworld.builds import MANIFEST, build_folder, digests, identity, save_pictures, write_table
from g2e_lib.glyphworld.datasets import DATASETS, Dataset, Example, Side, World
from g2e_lib.glyphworld.world.scenes import Crop, Label, Meaning, Split, matches, meaning_record
from g2e_lib.glyphworld.world.vocabulary import KIND_OF
from g2e_lib.project.config import fingerprint
from g2e_lib.project.store import build_once, read_json, write_json

CHECKSUMS = Path(__file__).with_name("checksums.json")  # identities of builds of some sizes
VERSION = 1  # raise when the content changes
EVAL_FOLDER, TRAIN_FOLDER, TRUTH = "eval", "train", "truth.jsonl"


@dataclass(frozen=True)
class Size:
    """How large a build is."""

    queries: int = 300  # rows of an evaluation dataset
    pairs: int = 1200  # rows of a training subset
    candidates: int = 100  # most candidates of a row, the right one included
    families: int = 100  # families of scenes, for either split
    views: int = 2  # drawings of a scene in the training split; with more than one, different images mean the same


def eval_rows(dataset: Dataset, world: World, size: Size) -> list[tuple[Side, list[Side]]]:
    """The rows of one evaluation dataset: (query, candidates), the right one first, no two queries alike.

    A quarter of the candidates are those that share most with the right one, the rest are drawn from all targets of
    the dataset; whatever `matches` calls right is left out. ValueError where there are not so many distinct queries.
    """
    rng = random.Random(f"{dataset.name} {world.split} {VERSION}")
    examples: dict[tuple, Example] = {}
    for _ in range(20 * size.queries):
        query, *targets = dataset.make(rng, world)
        examples.setdefault((query.text, query.picture), (query, *targets))
        if len(examples) == size.queries:
            break
    else:
        raise ValueError(f"{dataset.name} has only {len(examples)} distinct queries, not {size.queries}: ask for fewer")
    labels = [Side(label, None, Label(label)) for label in dataset.labels]
    pool = list(dict.fromkeys([*(target for _, target, *_ in examples.values()), *labels]))
    features = {side: _features(side.meaning) for side in pool}
    hard_count = size.candidates // 4
    rows = []
    for query, right, *extra in examples.values():
        wrong = [side for side in pool if not matches(query.meaning, side.meaning)]
        rng.shuffle(wrong)
        wrong.sort(key=lambda side: -len(features[side] & features[right]))  # noqa: B023 (used at once)
        hard, easy = wrong[:hard_count], wrong[hard_count:]
        rng.shuffle(easy)
        candidates = [*extra, *(side for side in (*hard, *easy) if side not in extra)]
        rows.append((query, [right, *candidates[: size.candidates - 1]]))
    return rows


def _features(meaning: Meaning) -> frozenset:
    """What two meanings can share; the more they do, the harder one is as a distractor for the other."""
    if isinstance(meaning, Label):
        return frozenset((*meaning.text.split(), KIND_OF.get(meaning.text, meaning.text)))
    if isinstance(meaning, Crop):
        return frozenset((meaning.name, meaning.colour, (meaning.background, meaning.name)))
    return frozenset(x for t in meaning.things for x in (t.name, t.colour, (t.name, t.colour), (t.place, t.name)))


def train_pairs(dataset: Dataset, world: World, size: Size) -> list[tuple[Side, Side]]:
    """The pairs of one training subset; queries and targets repeat as they happen to."""
    rng = random.Random(f"{dataset.name} {world.split} {VERSION}")
    return [dataset.make(rng, world)[:2] for _ in range(size.pairs)]


def build(root: Path, size: Size | None = None, show_progress: bool = True, split: Split = "test") -> dict:
    """Write MMEB-mini: `eval/` and `train/` with one folder a subset, `images/`, and the manifest, which is returned.

    Training subsets also get `truth.jsonl`, the meanings of query and target of each pair, from which `matches` tells
    whether a mined negative is a false one. `eval/` asks about scenes of `split`; "validation" is for choosing
    settings.
    """
    size = size or Size()
    test = World(random.Random(f"{split} world {VERSION}"), split, size.families, views=1)
    train = World(random.Random(f"train world {VERSION}"), "train", size.families, size.views)
    sides: list[Side] = []
    facts: dict[str, dict] = {}
    for name, dataset in tqdm(DATASETS.items(), desc="MMEB-mini", unit="dataset", disable=not show_progress):
        rows = eval_rows(dataset, test, size)
        pairs = train_pairs(dataset, train, size) if dataset.distribution == "IND" else []
        write_table(root / EVAL_FOLDER / name / "test-00000-of-00001.parquet", map(_eval_record, rows), EVAL_SCHEMA)
        if pairs:
            _write_training(root / TRAIN_FOLDER / name, pairs)
        sides += [side for query, candidates in rows for side in (query, *candidates)]
        sides += [side for pair in pairs for side in pair]
        facts[name] = {key: getattr(dataset, key) for key in ("meta_task", "distribution", "why")}
        fewest = min(len(candidates) for _, candidates in rows)
        facts[name] |= {"queries": len(rows), "fewest_candidates": fewest, "train_pairs": len(pairs)}
    save_pictures(root, [side.picture for side in sides if side.picture], show_progress)
    manifest = {"version": VERSION, "size": asdict(size), "datasets": facts, **checksums(root)}
    write_json(root / MANIFEST, manifest)
    return manifest


def _eval_record(row: tuple[Side, list[Side]]) -> dict:
    query, candidates = row
    texts, images = zip(*((side.row_text, side.image_path) for side in candidates), strict=True)
    return {"qry_text": query.row_text, "qry_img_path": query.image_path, "tgt_text": texts, "tgt_img_path": images}


def _write_training(folder: Path, pairs: Sequence[tuple[Side, Side]]) -> None:
    records = (
        {"qry": q.row_text, "qry_image_path": q.image_path, "pos_text": t.row_text, "pos_image_path": t.image_path}
        for q, t in pairs
    )
    write_table(folder / "original-00000-of-00001.parquet", records, TRAIN_SCHEMA)
    truth = [{"query": meaning_record(q.meaning), "target": meaning_record(t.meaning)} for q, t in pairs]
    (folder / TRUTH).write_text("".join(json.dumps(line) + "\n" for line in truth), encoding="utf-8")


def checksums(root: Path) -> dict:
    """Digests of what is on disk: every table by itself, and all images together with their number."""
    images = [[Path(name).name, digest] for name, digest in digests(root, "images/*").items()]
    return {
        "tables": digests(root, f"{EVAL_FOLDER}/*/*", f"{TRAIN_FOLDER}/*/*"),
        "images": {"count": len(images), "digest": fingerprint(images)},
    }


def prepare(cache: Path, size: Size, is_fresh: bool = False, split: Split = "test") -> Path:
    """The folder of a build of this size, made if it is not there or `is_fresh`; its `eval/` asks about `split`."""
    kind = "mmeb-mini" if split == "test" else f"mmeb-mini-{split}"
    root = build_folder(cache, kind, "glyphworld.benchmark", VERSION, asdict(size))
    if is_fresh and root.exists():
        shutil.rmtree(root)
    return build_once(root, lambda partial: build(partial, size, split=split))


def _manifest(root: Path) -> dict:
    return read_json(root / MANIFEST, made_by="notebook 00_setup")


def load(root: Path, names: Sequence[str] = (), limit: int = 0) -> tuple[dict[str, list[EvalRow]], dict[str, dict]]:
    """Rows and facts by dataset, `names` or else all, up to `limit` rows unless 0; ValueError if one is unknown."""
    facts = _manifest(root)["datasets"]
    rows = {name: read_mmeb_eval(root / EVAL_FOLDER, name, root, limit) for name in names or facts}
    return rows, {name: facts[name] for name in rows}


def training_facts(root: Path, names: Sequence[str] = ()) -> dict[str, dict]:
    """Meta-task, distribution and counts of `names`, or else all training subsets; ValueError where one is unknown."""
    known = {name: facts for name, facts in _manifest(root)["datasets"].items() if facts["train_pairs"]}
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"unknown training subset {unknown[0]!r}: choose among {', '.join(known)}")
    return {name: known[name] for name in names or known}


def check(root: Path) -> str:
    """What was compared of a build, its manifest and the repository's checksums; ValueError where something differs."""
    if problems := verify(root):
        raise ValueError(f"{root} is damaged: {'; '.join(problems[:3])}. Build it again with --fresh")
    expected = json.loads(CHECKSUMS.read_text(encoding="utf-8"))
    size = _manifest(root)["size"]
    known = next((build["identity"] for build in expected if build["size"] == size), None)
    if known is None:
        return "every file agrees with the manifest; a build of this size has no checksum in the repository"
    if known != identity(root):
        raise ValueError(
            f"MMEB-mini was built differently here ({identity(root)}) than by us ({known}): if you changed the world "
            f"or its datasets, put the new identity into {CHECKSUMS.name}; if not, please report this with the "
            "environment block of notebook 00_setup"
        )
    return "every file agrees with the manifest, and the manifest with the checksum in the repository"


def verify(root: Path) -> list[str]:
    """What differs between a build and its manifest, one line each; nothing if all is well."""
    manifest, found = _manifest(root), checksums(root)
    names = sorted({*manifest["tables"], *found["tables"]})
    problems = [f"{n} differs" for n in names if manifest["tables"].get(n) != found["tables"].get(n)]
    if manifest["images"] != found["images"]:
        problems.append(f"images differ: {found['images']['count']} files, expected {manifest['images']['count']}")
    return problems
