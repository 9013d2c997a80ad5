"""Scenes as structured records, what can be stated about them, and when two of them mean the same.

All that the benchmark says derives from these, so what is a right answer is decided by construction, never by a model.
"""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from itertools import permutations
from typing import Literal

from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, HELD_OUT, OBJECTS, PLACES

Split = Literal["train", "validation", "test"]
Relation = Literal["above", "below", "left of", "right of"]
RELATIONS: tuple[Relation, ...] = ("above", "below", "left of", "right of")


@dataclass(frozen=True, order=True)
class Thing:
    """One object in a scene, or a partial description of one (None: not said)."""

    place: int | None  # 0..3, index into PLACES
    name: str | None
    colour: str | None

    def fits(self, other: "Thing") -> bool:
        """Tell whether this description is true of `other`."""
        return (
            self.place in (None, other.place)
            and self.name in (None, other.name)
            and self.colour in (None, other.colour)
        )

    def somewhere(self) -> "Thing":
        """The same without its place."""
        return replace(self, place=None)


@dataclass(frozen=True)
class Scene:
    """The full content of one picture: a background and 1 to 4 things in distinct places, in place order."""

    background: str
    things: tuple[Thing, ...]

    @property
    def content(self) -> str:
        """The canonical text of the scene; equal content means semantically equal scenes."""
        things = ", ".join(f"{PLACES[t.place]}: {t.colour} {t.name}" for t in self.things)
        return f"{self.background} | {things}"

    @property
    def split(self) -> Split:
        """The split this content belongs to, on every machine and forever: 80 % train, 10 % each of the others."""
        bucket = hashlib.sha256(self.content.encode()).digest()[0]
        return "train" if bucket < 204 else "validation" if bucket < 230 else "test"

    def named(self, name: str) -> list[Thing]:
        """The things called `name`."""
        return [t for t in self.things if t.name == name]

    def related(self, thing: Thing, relation: Relation) -> Thing | None:
        """The thing directly above, below, left or right of `thing` in the grid, or None."""
        row, column = divmod(thing.place, 2)
        row += {"above": -1, "below": 1}.get(relation, 0)
        column += {"left of": -1, "right of": 1}.get(relation, 0)
        inside = 0 <= row < 2 and 0 <= column < 2
        return next((t for t in self.things if inside and t.place == 2 * row + column), None)

    def crop(self, thing: Thing) -> "Crop":
        """What a crop of this scene around `thing` shows."""
        return Crop(self.background, thing.name, thing.colour)


@dataclass(frozen=True)
class Crop:
    """The content of a crop: one object on a background; its place can no longer be told."""

    background: str
    name: str
    colour: str


@dataclass(frozen=True)
class Label:
    """An answer or a class name: equal only to itself."""

    text: str


@dataclass(frozen=True)
class Statement:
    """What a caption says. It does not say that there is nothing else, unless `count` does."""

    things: tuple[Thing, ...]  # descriptions, each of a different thing
    background: str | None = None
    count: int | None = None
    relations: tuple[tuple[int, Relation, int], ...] = ()  # (i, relation, j): things[i] is so related to things[j]

    def holds(self, scene: Scene) -> bool:
        """Tell whether the statement is true of `scene`: some assignment of its things to the scene's satisfies it."""
        if self.background not in (None, scene.background) or self.count not in (None, len(scene.things)):
            return False
        return any(
            all(said.fits(seen) for said, seen in zip(self.things, chosen, strict=True))
            and all(scene.related(chosen[j], relation) == chosen[i] for i, relation, j in self.relations)
            for chosen in permutations(scene.things, len(self.things))
        )


Meaning = Scene | Crop | Label | Statement
TYPES: dict[str, type[Meaning]] = {"Scene": Scene, "Crop": Crop, "Label": Label, "Claim": Statement}  # names in files


def matches(query: Meaning, target: Meaning) -> bool:
    """Tell whether `target` is a right answer to `query`, the ground truth behind every pair and every negative.

    A statement matches a scene it is true of; any other meanings match when they are equal.

    >>> red_sun = Scene("white", (Thing(0, "sun", "red"),))
    >>> matches(Statement((Thing(None, "sun", None),)), red_sun), matches(Label("sun"), Label("king"))
    (True, False)
    """
    if isinstance(query, Statement) and isinstance(target, Scene):
        return query.holds(target)
    if isinstance(query, Scene) and isinstance(target, Statement):
        return target.holds(query)
    return query == target


def meaning_record(meaning: Meaning) -> dict:
    """A meaning as plain JSON, `{"type": ..., ...}`; `meaning_from_record` is the inverse."""
    return {"type": next(name for name, cls in TYPES.items() if type(meaning) is cls), **asdict(meaning)}


def meaning_from_record(record: dict) -> Meaning:
    """Read what `meaning_record` wrote.

    >>> meaning_from_record(meaning_record(Label("sun")))
    Label(text='sun')
    """
    fields = {key: value for key, value in record.items() if key != "type"}
    if "things" in fields:
        fields["things"] = tuple(Thing(**thing) for thing in fields["things"])
    if "relations" in fields:
        fields["relations"] = tuple(tuple(relation) for relation in fields["relations"])
    return TYPES[record["type"]](**fields)


def sample_thing(rng: random.Random, place: int, held_out: bool = False, names: Sequence[str] = OBJECTS) -> Thing:
    """Draw a thing among `names`; `held_out` says from which side of the held-out object-colour combinations."""
    while True:
        name, colour = rng.choice(names), rng.choice(tuple(COLOURS))
        if ((name, colour) in HELD_OUT) == held_out:
            return Thing(place, name, colour)


def sample_scene(
    rng: random.Random,
    split: Split | None,
    count: int | None = None,
    held_out: bool = False,
    names: Sequence[str] = OBJECTS,
) -> Scene:
    """Draw a scene of `split` (None: any) with `count` things (None: 1 to 4, more often several) among `names`.

    One scene in four repeats an object or a colour, so that counting is not the same as looking.
    """
    while True:
        number = count or rng.choice((1, 2, 2, 3, 3, 4, 4))
        places = sorted(rng.sample(range(4), number))
        things = [sample_thing(rng, place, held_out, names) for place in places]
        if number > 1 and rng.random() < 0.25:
            source, index = rng.sample(range(number), 2)
            attribute = rng.choice(("name", "colour"))
            repeated = replace(things[index], **{attribute: getattr(things[source], attribute)})
            if ((repeated.name, repeated.colour) in HELD_OUT) == held_out:
                things[index] = repeated
        scene = Scene(rng.choice(tuple(BACKGROUNDS)), tuple(things))
        if split in (None, scene.split):
            return scene
