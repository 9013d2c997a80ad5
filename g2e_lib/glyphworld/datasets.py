"""The sixteen datasets of MMEB-mini, and how a query and its target are drawn; scenes come with near duplicates."""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from g2e_lib.data.mmeb import IMAGE_PLACEHOLDER
from g2e_lib.glyphworld.world.language import Caption, edits, long_caption, questions, short_caption
from g2e_lib.glyphworld.world.render import TILTED, Style, render
from g2e_lib.glyphworld.world.scenes import RELATIONS, Label, Meaning, Scene, Split, Thing, sample_scene
from g2e_lib.glyphworld.world.vocabulary import COLOURS, KIND_OF, KINDS, NUMBERS, OBJECTS, PLACES

FAMILY_SIZE = 4
PLAIN = Style()


@dataclass(frozen=True)
class Picture:
    """An image file: a drawing of a scene, or of the cell at `place` alone."""

    scene: Scene
    view: int = 0
    style: Style = PLAIN
    place: int | None = None

    @property
    def path(self) -> str:
        """The file's path below the image root, named by what it shows. BMP: lossless, and no compressor's choices."""
        name = f"{self.scene.content} {self.view} {self.style} {self.place}"
        return f"images/{hashlib.sha256(name.encode()).hexdigest()[:20]}.bmp"

    def save(self, root: Path) -> None:
        """Draw and write the file."""
        render(self.scene, self.view, self.style, self.place).save(root / self.path)


@dataclass(frozen=True)
class Side:
    """A query or a target: what is written to the row, and what it means."""

    text: str
    picture: Picture | None
    meaning: Meaning

    @property
    def image_path(self) -> str:
        """The file of the picture, or an empty text."""
        return self.picture.path if self.picture else ""

    @property
    def row_text(self) -> str:
        """The text as MMEB writes it, with the placeholder where the image goes."""
        return f"{IMAGE_PLACEHOLDER}\n{self.text}" if self.picture else self.text


# A query, its target, and further wrong candidates that only this query calls for.
Example = tuple[Side, ...]
Make = Callable[[random.Random, "World"], Example]


class World:
    """The scenes of a split that the benchmark is drawn from: families of FAMILY_SIZE, each an edit from its first."""

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


def _single(asked: str, name: Callable[[Thing], str], style: Style = PLAIN, held_out: bool = False) -> Make:
    """An image of one object, and its class; held-out combinations of object and colour belong to no split."""

    def make(rng: random.Random, world: World) -> Example:
        scene = sample_scene(rng, None if held_out else world.split, count=1, held_out=held_out)
        label = Label(name(scene.things[0]))
        picture = replace(world.picture(rng, scene), style=style)
        return Side(f"{CLASSIFY} of {asked}.", picture, label), Side(label.text, None, label)

    return make


def _question(kind: str) -> Make:
    """An image with a question of some kind, and its answer."""

    def make(rng: random.Random, world: World) -> Example:
        while True:
            scene = world.scene(rng)
            pool = [q for q in questions(scene, rng) if q.kind == kind]
            if pool:
                question, picture = rng.choice(pool), world.picture(rng, scene)
                answer = Label(question.answer)
                return Side(ASK.format(question.text), picture, answer), Side(question.answer, None, answer)

    return make


def caption_i2t(rng: random.Random, world: World) -> Example:
    """An image, and a short caption of it."""
    scene = world.scene(rng)
    text, statement = short_caption(scene, rng)
    return Side(DESCRIBE, world.picture(rng, scene), scene), Side(text, None, statement)


def _caption_t2i(caption: Caption) -> Make:
    """A caption, and an image of it."""

    def make(rng: random.Random, world: World) -> Example:
        scene = world.scene(rng)
        text, statement = caption(scene, rng)
        return Side(MATCH_CAPTION.format(text), None, statement), Side(REPRESENT, world.picture(rng, scene), scene)

    return make


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
    text, statement = short_caption(scene, rng)
    caption, _ = long_caption(scene, rng)
    target = Side(CAPTIONED.format(caption), world.picture(rng, scene), scene)
    return Side(FIND_CAPTIONED.format(text), None, statement), target


def _cropped(text: Callable[[random.Random, Scene, Thing], str | None]) -> Make:
    """An image with a text that says which object, and the crop around it; no text passes an object over."""

    def make(rng: random.Random, world: World) -> Example:
        while True:
            scene = world.scene(rng)
            thing = rng.choice(scene.things)
            if said := text(rng, scene, thing):
                picture, crop = world.picture(rng, scene), scene.crop(thing)
                return Side(said, picture, crop), Side(CROPPED, replace(picture, place=thing.place), crop)

    return make


def _by_name(_: random.Random, __: Scene, thing: Thing) -> str:
    return SELECT.format(f"the {thing.colour} {thing.name}.")


def _by_relation(rng: random.Random, scene: Scene, thing: Thing) -> str | None:
    unique = [other for other in scene.things if len(scene.named(other.name)) == 1]
    anchors = [(r, other) for other in unique for r in RELATIONS if scene.related(other, r) == thing]
    if not anchors:
        return None
    relation, other = rng.choice(anchors)
    return SELECT.format(f"the object {relation} the {other.name}.")


def _by_kind(_: random.Random, scene: Scene, thing: Thing) -> str | None:
    kind = KIND_OF[thing.name]
    is_only = sum(KIND_OF[t.name] == kind for t in scene.things) == 1
    return SELECT_ANSWER.format(f"which object is a kind of {kind}?") if is_only else None


@dataclass(frozen=True)
class Dataset:
    """One dataset of MMEB-mini."""

    name: str
    meta_task: str  # classification, vqa, retrieval or grounding
    distribution: str  # IND (has training pairs) or OOD
    why: str  # what makes it in- or out-of-distribution
    make: Make  # draws one (query, target)
    labels: tuple[str, ...] = ()  # class names: candidates of every row, besides the targets of other rows


# No kinds: "planet" would be a second right answer to a question for mars.
ANSWERS = (*OBJECTS, *COLOURS, *NUMBERS, *PLACES, "nothing", "yes", "no")
object_name = _single("its object", lambda thing: thing.name)
object_kind = _single("its kind", lambda thing: KIND_OF[thing.name])
object_rotated = _single("its object", lambda thing: thing.name, Style(rotation=TILTED, noise=24))
coloured_object = _single("its colour and object", lambda thing: f"{thing.colour} {thing.name}", held_out=True)
ROTATED = "tilted and noisy drawings, never trained on"
COLOURED = "object-colour combinations and two-word labels that occur in no training data"
LONG = "captions with places, count and background, three times as long as trained ones"
COLOURED_NAMES = tuple(f"{colour} {name}" for colour in COLOURS for name in OBJECTS)

DATASETS = {
    d.name: d
    for d in (
        Dataset("ObjectName", "classification", "IND", "plain drawings, training classes", object_name, OBJECTS),
        Dataset("ObjectKind", "classification", "IND", "plain drawings, training classes", object_kind, tuple(KINDS)),
        Dataset("ObjectRotated", "classification", "OOD", ROTATED, object_rotated, OBJECTS),
        Dataset("ColouredObject", "classification", "OOD", COLOURED, coloured_object, COLOURED_NAMES),
        Dataset("ColourQA", "vqa", "IND", "trained question type", _question("colour"), ANSWERS),
        Dataset("PlaceQA", "vqa", "IND", "trained question type", _question("at place"), ANSWERS),
        Dataset("CountQA", "vqa", "IND", "trained question type", _question("count"), ANSWERS),
        Dataset("RelationQA", "vqa", "OOD", "question type without training pairs", _question("relation"), ANSWERS),
        Dataset("CaptionI2T", "retrieval", "IND", "short captions", caption_i2t),
        Dataset("CaptionT2I", "retrieval", "IND", "short captions", _caption_t2i(short_caption)),
        Dataset("Edited", "retrieval", "IND", "trained kinds of change", edited),
        Dataset("LongCaptionT2I", "retrieval", "OOD", LONG, _caption_t2i(long_caption)),
        Dataset("CaptionedScene", "retrieval", "OOD", "targets with image and text, never trained on", captioned_scene),
        Dataset("Crop", "grounding", "IND", "objects named directly", _cropped(_by_name)),
        Dataset("CropByRelation", "grounding", "OOD", "reference through another object", _cropped(_by_relation)),
        Dataset("CropByKind", "grounding", "OOD", "reference by a question for a kind", _cropped(_by_kind)),
    )
}
