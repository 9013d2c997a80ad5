"""MMEB-mini: sixteen datasets over MMEB's four meta-tasks, built from scenes and written in MMEB's own row format.

Every row is made from a query meaning and a target meaning (scenes.Meaning). All other targets of the dataset are
its candidates, except those that `matches` says would be a second right answer; scenes come in families of near
duplicates, so hard distractors are always among them. Building is deterministic to the byte.
"""

import hashlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from g2e_lib.config import code_fingerprint, file_digest, fingerprint
from g2e_lib.data import EVAL_SCHEMA, IMAGE_PLACEHOLDER, TRAIN_SCHEMA, EvalRow, read_mmeb_eval
from g2e_lib.glyphworld.language import Question, edits, long_caption, questions, short_caption
from g2e_lib.glyphworld.render import CELL, TILTED, Style, render
from g2e_lib.glyphworld.scenes import (
    RELATIONS,
    Crop,
    Label,
    Meaning,
    Scene,
    Split,
    Thing,
    matches,
    meaning_record,
    sample_scene,
)
from g2e_lib.glyphworld.vocabulary import COLOURS, KIND_OF, KINDS, NUMBERS, OBJECTS, PLACES
from g2e_lib.store import read_json, write_json

CHECKSUMS = Path(__file__).with_name("checksums.json")  # identities of builds of some sizes
VERSION = 1  # raise when the content changes
EVAL_FOLDER, TRAIN_FOLDER, MANIFEST, TRUTH = "eval", "train", "manifest.json", "truth.jsonl"
# Source files that decide what is built.
CODE = tuple(f"glyphworld/{name}.py" for name in ("benchmark", "language", "render", "scenes", "vocabulary"))
FAMILY_SIZE = 4


@dataclass(frozen=True)
class Picture:
    """An image file: a drawing of a scene, or of the cell at `place` alone."""

    scene: Scene
    view: int = 0
    style: Style = Style()
    place: int | None = None

    @property
    def path(self) -> str:
        """The file's path below the image root, named by what it shows. BMP: lossless, and no compressor's choices."""
        name = f"{self.scene.content} {self.view} {self.style} {self.place}"
        return f"images/{hashlib.sha256(name.encode()).hexdigest()[:20]}.bmp"

    def save(self, root: Path) -> None:
        """Draw and write the file."""
        image = render(self.scene, self.view, self.style)
        if self.place is not None:
            row, column = divmod(self.place, 2)
            image = image.crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))
        image.save(root / self.path)


@dataclass(frozen=True)
class Side:
    """A query or a target: what is written to the row, and what it means."""

    text: str
    picture: Picture | None
    meaning: Meaning

    @property
    def row_text(self) -> str:
        """The text as MMEB writes it, with the placeholder where the image goes."""
        return f"{IMAGE_PLACEHOLDER}\n{self.text}" if self.picture else self.text


# A query, its target, and further wrong candidates that only this query calls for.
Example = tuple[Side, ...]
Make = Callable[[random.Random, "World"], Example]


class World:
    """The scenes one split of the benchmark is drawn from.

    Args:
        rng: source of randomness.
        split: which scenes.
        families: how many families of near duplicates; each has FAMILY_SIZE scenes an edit apart from the first.
        views: how many drawings of each scene.
    """

    def __init__(self, rng: random.Random, split: Split, families: int, views: int) -> None:
        self.split, self.views = split, views
        self.scenes: list[Scene] = []
        while len(self.scenes) < families * FAMILY_SIZE:
            self.scenes += [s for s in _family(rng, split) if s not in self.scenes]

    def scene(self, rng: random.Random) -> Scene:
        """One of the scenes."""
        return rng.choice(self.scenes)

    def picture(self, rng: random.Random, scene: Scene) -> Picture:
        """A drawing of a scene."""
        return Picture(scene, rng.randrange(self.views))


def _family(rng: random.Random, split: Split) -> list[Scene]:
    first = sample_scene(rng, split, count=rng.choice((2, 2, 3, 3, 4)))
    family = [first]
    while len(family) < FAMILY_SIZE:
        result = rng.choice(edits(first, rng)).result
        if result.split == split and result not in family:
            family.append(result)
    return family


# --- the datasets: each function makes one (query, target) ---------------------------------------------------------

REPRESENT = "Represent the given image."
CLASSIFY = "Represent the given image for classification"
ASK = "Represent the given image with the following question: {}"
MATCH_CAPTION = "Find me an image that matches the given caption: {}"
DESCRIBE = "Find an image caption describing the given image."
CHANGE = "Given an image, find a similar image with the described changes: {}"
FIND_CAPTIONED = "Find a captioned image that matches this description: {}"
CAPTIONED = "Represent the given image with the following caption: {}"
SELECT = "Select the portion of the image that shows {}"
SELECT_ANSWER = "Select the portion of the image that answers the question: {}"
CROPPED = "Represent the given cropped image of the object."


def object_name(rng: random.Random, world: World) -> Example:
    """An image of one object, and its name."""
    scene = sample_scene(rng, world.split, count=1)
    name = scene.things[0].name
    query = Side(f"{CLASSIFY} of its object.", world.picture(rng, scene), Label(name))
    return query, Side(name, None, Label(name))


def object_kind(rng: random.Random, world: World) -> Example:
    """An image of one object, and its kind."""
    scene = sample_scene(rng, world.split, count=1)
    kind = KIND_OF[scene.things[0].name]
    query = Side(f"{CLASSIFY} of its kind.", world.picture(rng, scene), Label(kind))
    return query, Side(kind, None, Label(kind))


def object_rotated(rng: random.Random, world: World) -> Example:
    """ObjectName with tilted objects and noise."""
    query, target, *_ = object_name(rng, world)
    picture = replace(query.picture, style=Style(rotation=TILTED, noise=24))
    return replace(query, picture=picture), target


def coloured_object(rng: random.Random, world: World) -> Example:
    """An image of one object in a colour it never has elsewhere, and colour with name."""
    scene = sample_scene(rng, None, count=1, held_out=True)  # no split has ever trained on these
    text = f"{scene.things[0].colour} {scene.things[0].name}"
    query = Side(f"{CLASSIFY} of its colour and object.", world.picture(rng, scene), Label(text))
    return query, Side(text, None, Label(text))


def _question(kind: str) -> Make:
    def make(rng: random.Random, world: World) -> Example:
        while True:
            scene = world.scene(rng)
            pool = [q for q in questions(scene, rng) if q.kind == kind]
            if pool:
                return _answered(rng.choice(pool), world.picture(rng, scene))

    return make


def _answered(question: Question, picture: Picture) -> Example:
    answer = Label(question.answer)
    return Side(ASK.format(question.text), picture, answer), Side(question.answer, None, answer)


def caption_i2t(rng: random.Random, world: World) -> Example:
    """An image, and a short caption of it."""
    scene = world.scene(rng)
    text, claim = short_caption(scene, rng)
    return Side(DESCRIBE, world.picture(rng, scene), scene), Side(text, None, claim)


def caption_t2i(rng: random.Random, world: World) -> Example:
    """A short caption, and an image of it."""
    scene = world.scene(rng)
    text, claim = short_caption(scene, rng)
    return Side(MATCH_CAPTION.format(text), None, claim), Side(REPRESENT, world.picture(rng, scene), scene)


def long_caption_t2i(rng: random.Random, world: World) -> Example:
    """A long caption with places and background, and an image of it."""
    scene = world.scene(rng)
    text, claim = long_caption(scene, rng)
    return Side(MATCH_CAPTION.format(text), None, claim), Side(REPRESENT, world.picture(rng, scene), scene)


def edited(rng: random.Random, world: World) -> Example:
    """An image with a change, and the image that results; the unchanged image is among the wrong candidates."""
    while True:
        first = world.scenes.index(world.scene(rng)) // FAMILY_SIZE * FAMILY_SIZE
        family = world.scenes[first : first + FAMILY_SIZE]
        scene = family[0]
        pool = [e for _ in range(40) for e in edits(scene, rng) if e.result in family]
        if pool:
            edit, picture = rng.choice(pool), world.picture(rng, scene)
            query = Side(CHANGE.format(edit.text), picture, edit.result)
            target = Side(REPRESENT, world.picture(rng, edit.result), edit.result)
            return query, target, Side(REPRESENT, picture, scene)


def captioned_scene(rng: random.Random, world: World) -> Example:
    """A short description, and an image that carries a caption of its own."""
    scene = world.scene(rng)
    text, claim = short_caption(scene, rng)
    caption, _ = long_caption(scene, rng)
    target = Side(CAPTIONED.format(caption), world.picture(rng, scene), scene)
    return Side(FIND_CAPTIONED.format(text), None, claim), target


def _cropped(rng: random.Random, world: World, name: Callable[[Scene, Thing], str | None]) -> Example:
    while True:
        scene = world.scene(rng)
        thing = rng.choice(scene.things)
        text, crop = name(scene, thing), scene.crop(thing)
        if text:
            picture = world.picture(rng, scene)
            target = Side(CROPPED, replace(picture, place=thing.place), crop)
            return Side(text, picture, crop), target


def crop(rng: random.Random, world: World) -> Example:
    """An image with an object's colour and name, and the crop around it."""
    return _cropped(rng, world, lambda scene, thing: SELECT.format(f"the {thing.colour} {thing.name}."))


def crop_by_relation(rng: random.Random, world: World) -> Example:
    """An image with a reference through another object, and the crop."""

    def name(scene: Scene, thing: Thing) -> str | None:
        anchors = [(r, o) for o in scene.things for r in RELATIONS if scene.related(o, r) == thing]
        anchors = [(r, o) for r, o in anchors if len(scene.named(o.name)) == 1]
        if not anchors:
            return None
        relation, other = rng.choice(anchors)
        return SELECT.format(f"the object {relation} the {other.name}.")

    return _cropped(rng, world, name)


def crop_by_kind(rng: random.Random, world: World) -> Example:
    """An image with a question for the object of a kind, and the crop."""

    def name(scene: Scene, thing: Thing) -> str | None:
        kind = KIND_OF[thing.name]
        if sum(KIND_OF[t.name] == kind for t in scene.things) > 1:
            return None
        return SELECT_ANSWER.format(f"which object is a kind of {kind}?")

    return _cropped(rng, world, name)


@dataclass(frozen=True)
class Dataset:
    """One dataset of MMEB-mini.

    Attributes:
        meta_task: classification, vqa, retrieval or grounding.
        distribution: IND (has training pairs) or OOD.
        why: what makes it in- or out-of-distribution.
        make: draws one (query, target).
        labels: class names that are candidates of every row, besides the targets of other rows.
    """

    name: str
    meta_task: str
    distribution: str
    why: str
    make: Make
    labels: tuple[str, ...] = ()


# No kinds: "planet" would be a second right answer to a question for mars.
ANSWERS = (*OBJECTS, *COLOURS, *NUMBERS, *PLACES, "nothing", "yes", "no")
COLOURED_NAMES = tuple(f"{colour} {name}" for colour in COLOURS for name in OBJECTS)

DATASETS = {
    d.name: d
    for d in (
        Dataset("ObjectName", "classification", "IND", "plain drawings, training classes", object_name, OBJECTS),
        Dataset("ObjectKind", "classification", "IND", "plain drawings, training classes", object_kind, tuple(KINDS)),
        Dataset(
            "ObjectRotated",
            "classification",
            "OOD",
            "tilted and noisy drawings, never trained on",
            object_rotated,
            OBJECTS,
        ),
        Dataset(
            "ColouredObject",
            "classification",
            "OOD",
            "object-colour combinations and two-word labels that occur in no training data",
            coloured_object,
            COLOURED_NAMES,
        ),
        Dataset("ColourQA", "vqa", "IND", "trained question type", _question("colour"), ANSWERS),
        Dataset("PlaceQA", "vqa", "IND", "trained question type", _question("at place"), ANSWERS),
        Dataset("CountQA", "vqa", "IND", "trained question type", _question("count"), ANSWERS),
        Dataset("RelationQA", "vqa", "OOD", "question type without training pairs", _question("relation"), ANSWERS),
        Dataset("CaptionI2T", "retrieval", "IND", "short captions", caption_i2t),
        Dataset("CaptionT2I", "retrieval", "IND", "short captions", caption_t2i),
        Dataset("Edited", "retrieval", "IND", "trained kinds of change", edited),
        Dataset(
            "LongCaptionT2I",
            "retrieval",
            "OOD",
            "captions with places, count and background, about twice as long as trained ones",
            long_caption_t2i,
        ),
        Dataset("CaptionedScene", "retrieval", "OOD", "targets with image and text, never trained on", captioned_scene),
        Dataset("Crop", "grounding", "IND", "objects named directly", crop),
        Dataset("CropByRelation", "grounding", "OOD", "reference through another object", crop_by_relation),
        Dataset("CropByKind", "grounding", "OOD", "reference by a question for a kind", crop_by_kind),
    )
}


# --- building ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Size:
    """How large a build is.

    Attributes:
        queries: rows of an evaluation dataset.
        pairs: rows of a training subset.
        candidates: most candidates of a row, the right one included.
        families: families of scenes, for either split.
        views: drawings of a scene in the training split; more than one makes different images mean the same.
    """

    queries: int = 300
    pairs: int = 1200
    candidates: int = 100
    families: int = 100
    views: int = 2


def eval_rows(dataset: Dataset, world: World, size: Size) -> list[tuple[Side, list[Side]]]:
    """The rows of one evaluation dataset: (query, candidates), the right one first, no two queries alike.

    A quarter of the candidates are those that share most with the right one, the rest are drawn from all targets of
    the dataset; whatever `matches` calls right is left out.

    Raises:
        ValueError: the dataset has not so many distinct queries.
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


def build(root: Path, size: Size | None = None, show_progress: bool = True) -> dict:
    """Write MMEB-mini: `eval/` and `train/` with one folder a subset, `images/`, and the manifest.

    Training subsets also get `truth.jsonl`: for each pair the meaning of query and target, from which `matches`
    tells whether a mined negative is a false one.

    Args:
        root: receives the files; should be new or empty.
        size: how large; None is the size of profile `mini`.
        show_progress: draw a progress bar.

    Returns:
        The manifest, as written.
    """
    size = size or Size()
    test = World(random.Random(f"test world {VERSION}"), "test", size.families, views=1)
    train = World(random.Random(f"train world {VERSION}"), "train", size.families, size.views)
    pictures: dict[str, Picture] = {}
    counts: dict[str, dict] = {}
    for name, dataset in tqdm(DATASETS.items(), desc="MMEB-mini", unit="dataset", disable=not show_progress):
        rows = eval_rows(dataset, test, size)
        _write_parquet(root / EVAL_FOLDER / name / "test-00000-of-00001.parquet", map(_eval_record, rows), EVAL_SCHEMA)
        sides = [side for query, candidates in rows for side in (query, *candidates)]
        counts[name] = {
            "meta_task": dataset.meta_task,
            "distribution": dataset.distribution,
            "why": dataset.why,
            "queries": len(rows),
            "fewest_candidates": min(len(candidates) for _, candidates in rows),
            "train_pairs": 0,
        }
        if dataset.distribution == "IND":
            pairs = train_pairs(dataset, train, size)
            folder = root / TRAIN_FOLDER / name
            _write_parquet(folder / "original-00000-of-00001.parquet", map(_train_record, pairs), TRAIN_SCHEMA)
            truth = [{"query": meaning_record(q.meaning), "target": meaning_record(t.meaning)} for q, t in pairs]
            (folder / TRUTH).write_text("".join(json.dumps(line) + "\n" for line in truth), encoding="utf-8")
            sides += [side for pair in pairs for side in pair]
            counts[name]["train_pairs"] = len(pairs)
        pictures |= {side.picture.path: side.picture for side in sides if side.picture}
    (root / "images").mkdir(parents=True, exist_ok=True)
    for picture in tqdm(pictures.values(), desc="draw", unit="image", disable=not show_progress):
        picture.save(root)
    manifest = {"version": VERSION, "size": asdict(size), "datasets": counts, **checksums(root)}
    write_json(root / MANIFEST, manifest)
    return manifest


def _eval_record(row: tuple[Side, list[Side]]) -> dict:
    query, candidates = row
    return {
        "qry_text": query.row_text,
        "qry_img_path": query.picture.path if query.picture else "",
        "tgt_text": [side.row_text for side in candidates],
        "tgt_img_path": [side.picture.path if side.picture else "" for side in candidates],
    }


def _train_record(pair: tuple[Side, Side]) -> dict:
    query, target = pair
    return {
        "qry": query.row_text,
        "qry_image_path": query.picture.path if query.picture else "",
        "pos_text": target.row_text,
        "pos_image_path": target.picture.path if target.picture else "",
        "neg_text": "",
        "neg_image_path": "",
    }


def _write_parquet(path: Path, records: Iterable[dict], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(records), schema), path, compression="none")  # no compressor's choices


def checksums(root: Path) -> dict:
    """Digests of what is on disk: every table by itself, and all images together with their number."""
    tables = sorted([*root.glob(f"{EVAL_FOLDER}/*/*"), *root.glob(f"{TRAIN_FOLDER}/*/*")])
    images = sorted((root / "images").iterdir())
    return {
        "tables": {path.relative_to(root).as_posix(): file_digest(path) for path in tables},
        "images": {"count": len(images), "digest": fingerprint([[path.name, file_digest(path)] for path in images])},
    }


def prepare(cache: Path, size: Size, is_fresh: bool = False) -> Path:
    """The folder of a build of this size, made if it is not there; half-written builds are never seen.

    Args:
        cache: folder of all builds.
        size: how large.
        is_fresh: build again even if it is there.
    """
    root = cache / f"mmeb-mini-{fingerprint([VERSION, asdict(size), code_fingerprint(CODE)])}"
    if is_fresh and root.exists():
        shutil.rmtree(root)
    if not (root / MANIFEST).exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".building-") as partial:
            build(Path(partial) / root.name, size)
            (Path(partial) / root.name).replace(root)
    return root


def load(root: Path, names: Sequence[str] = (), limit: int = 0) -> tuple[dict[str, list[EvalRow]], dict[str, dict]]:
    """Read the evaluation datasets of a build.

    Args:
        root: the build's folder.
        names: datasets to read; none means all.
        limit: at most this many rows of each; 0 means all.

    Returns:
        Rows by dataset name, and facts by dataset name (meta_task, distribution, why, and counts).

    Raises:
        ValueError: an unknown dataset.
    """
    facts = read_json(root / MANIFEST, made_by="notebook 00_setup")["datasets"]
    rows = {name: read_mmeb_eval(root / EVAL_FOLDER, name, root, limit) for name in names or facts}
    return rows, {name: facts[name] for name in rows}


def identity(root: Path) -> str:
    """What a build is called in provenance: the digest of its manifest, which has the checksum of every file."""
    return file_digest(root / MANIFEST)[:16]


def check(root: Path) -> str:
    """Verify a build against its manifest, and the manifest against the checksums in the repository.

    Returns:
        A sentence that says what was compared.

    Raises:
        ValueError: something differs.
    """
    if problems := verify(root):
        raise ValueError(f"{root} is damaged: {'; '.join(problems[:3])}. Build it again with --fresh")
    expected = json.loads(CHECKSUMS.read_text(encoding="utf-8"))
    size = read_json(root / MANIFEST, made_by="notebook 00_setup")["size"]
    known = next((one["identity"] for one in expected if one["size"] == size), None)
    if known is None:
        return "every file agrees with the manifest; a build of this size has no checksum in the repository"
    if known != identity(root):
        raise ValueError(
            f"MMEB-mini was built differently here ({identity(root)}) than by us ({known}): please report this with "
            "the environment block of notebook 00_setup"
        )
    return "every file agrees with the manifest, and the manifest with the checksum in the repository"


def verify(root: Path) -> list[str]:
    """Compare a build with its manifest; returns what differs, one line each, nothing if all is well."""
    manifest, found = read_json(root / MANIFEST, made_by="notebook 00_setup"), checksums(root)
    names = sorted({*manifest["tables"], *found["tables"]})
    problems = [f"{n} differs" for n in names if manifest["tables"].get(n) != found["tables"].get(n)]
    if manifest["images"] != found["images"]:
        problems.append(f"images differ: {found['images']['count']} files, expected {manifest['images']['count']}")
    return problems
