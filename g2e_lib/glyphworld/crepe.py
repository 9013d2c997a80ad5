"""SugarCrepe-mini and SugarCrepe++-mini: GlyphWorld's own rows in the published files' formats.

A caption is true of its picture, a second one says the same in other words, and the negative is as fluent and false;
all three are decided by the scene and checked as they are made. Negatives are worded like captions, so that nothing
but the picture (or the other caption) tells them apart.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm.auto import tqdm

from g2e_lib.data.sugarcrepe import (
    SUGARCREPE,
    SUGARCREPE_PP,
    CrepeRow,
    read_sugarcrepe,
    read_sugarcrepe_pp,
    with_images,
)
from g2e_lib.glyphworld.datasets import Picture
from g2e_lib.glyphworld.world.language import join_with_and, with_article
from g2e_lib.glyphworld.world.scenes import RELATIONS, Claim, Relation, Scene, Split, Thing, sample_scene
from g2e_lib.glyphworld.world.vocabulary import COLOURS, HELD_OUT, OBJECTS
from g2e_lib.project.config import file_digest, fingerprint
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import build_once, write_json

VERSION = 1  # raise when the content changes
PLAIN, PLUS, MANIFEST = "sugarcrepe", "sugarcrepe_pp", "manifest.json"  # folders of the two, beside images/
TEMPLATES = ("{}", "a picture of {}", "there is {}", "an image with {}")
OPPOSITE: dict[Relation, Relation] = dict(zip(RELATIONS, ("below", "above", "right of", "left of"), strict=True))


@dataclass(frozen=True)
class Statement:
    """What a caption says: things in order, and how the first of two stands to the second."""

    things: tuple[Thing, ...]
    relation: Relation | None = None

    @property
    def claim(self) -> Claim:
        """The meaning."""
        return Claim(self.things, relations=((0, self.relation, 1),) if self.relation else ())

    def say(self, template: str) -> str:
        """The words.

        >>> Statement((Thing(None, "sun", "red"), Thing(None, "cat", None)), "above").say("there is {}")
        'there is a red sun above a cat'
        """
        phrases = [with_article(f"{t.colour} {t.name}" if t.colour else t.name) for t in self.things]
        return template.format(f" {self.relation} ".join(phrases) if self.relation else join_with_and(phrases))


def _related(scene: Scene, rng: random.Random) -> Statement | None:
    """Two things of the scene and a relation between them, if it has any."""
    pairs = [(a, r, b) for b in scene.things for r in RELATIONS if (a := scene.related(b, r))]
    if not pairs:
        return None
    first, relation, second = rng.choice(pairs)
    return Statement((replace(first, place=None), replace(second, place=None)), relation)


def _listed(scene: Scene, rng: random.Random) -> Statement:
    """All things of the scene in some order."""
    return Statement(tuple(replace(t, place=None) for t in rng.sample(scene.things, len(scene.things))))


def _with(statement: Statement, index: int, thing: Thing) -> Statement:
    return replace(statement, things=(*statement.things[:index], thing, *statement.things[index + 1 :]))


def _other_name(scene: Scene, thing: Thing, rng: random.Random) -> str:
    return rng.choice([n for n in OBJECTS if not scene.named(n) and (n, thing.colour) not in HELD_OUT])


def _other_colour(thing: Thing, colour: str, rng: random.Random) -> str:
    return rng.choice([c for c in COLOURS if c != colour and (thing.name, c) not in HELD_OUT])


def make_statements(subset: str, scene: Scene, rng: random.Random) -> tuple[Statement, Statement] | None:
    """What is said of a scene, and what is falsely said instead; None if the scene does not lend itself to it.

    Args:
        subset: a name in SUGARCREPE.
        scene: what the picture shows.
        rng: source of randomness.
    """
    change, part = subset.split("_")
    statement = _related(scene, rng) if part == "rel" or subset == "swap_obj" else _listed(scene, rng)
    if statement is None or len(statement.things) < 2:
        return None
    index = rng.randrange(len(statement.things))
    thing = statement.things[index]
    if subset == "replace_obj":
        return statement, _with(statement, index, replace(thing, name=_other_name(scene, thing, rng)))
    if subset == "replace_att":
        return statement, _with(statement, index, replace(thing, colour=_other_colour(thing, thing.colour, rng)))
    if subset == "replace_rel":
        return statement, replace(statement, relation=rng.choice([r for r in RELATIONS if r != statement.relation]))
    if subset == "swap_obj":
        return statement, replace(statement, things=statement.things[::-1])
    if subset == "swap_att":
        other = rng.choice([i for i in range(len(statement.things)) if i != index])
        colours = thing.colour, statement.things[other].colour
        swapped = replace(thing, colour=colours[1]), replace(statement.things[other], colour=colours[0])
        if colours[0] == colours[1] or any((t.name, t.colour) in HELD_OUT for t in swapped):
            return None
        return statement, _with(_with(statement, index, swapped[0]), other, swapped[1])
    if subset == "add_obj":
        added = Thing(None, _other_name(scene, thing, rng), None)
        colour = _other_colour(added, "", rng)
        things = list(statement.things)
        things.insert(rng.randrange(len(things) + 1), replace(added, colour=colour))
        return statement, Statement(tuple(things))
    bare = replace(thing, colour=None)  # add_att: a colour where none was said
    return _with(statement, index, bare), _with(
        statement, index, replace(bare, colour=_other_colour(thing, thing.colour, rng))
    )


def make_row(subset: str, scene: Scene, rng: random.Random) -> dict[str, str] | None:
    """Caption, second caption and negative of one scene, or None.

    The second caption has another template and another order; related things are told from the other's side.
    """
    made = make_statements(subset, scene, rng)
    if made is None:
        return None
    statement, negative = made
    if not statement.claim.holds(scene) or negative.claim.holds(scene):  # such as a swap of two alike things
        return None
    first, second = rng.sample(TEMPLATES, 2)
    turned = statement.things[::-1]
    again = Statement(turned, OPPOSITE[statement.relation]) if statement.relation else Statement(turned)
    return {"caption": statement.say(first), "caption2": again.say(second), "negative_caption": negative.say(first)}


def make_rows(subset: str, count: int, split: Split) -> list[tuple[Scene, dict[str, str]]]:
    """Distinct scenes with their captions.

    Args:
        subset: a name in SUGARCREPE.
        count: how many.
        split: whose scenes.
    """
    rng, found = random.Random(f"{subset} {split} {VERSION}"), {}
    while len(found) < count:
        scene = sample_scene(rng, split, count=rng.choice((2, 2, 3)))
        row = make_row(subset, scene, rng)
        if row and scene not in found:
            found[scene] = row
    return list(found.items())


def build_crepe(root: Path, rows: int = 300, split: Split = "test") -> None:
    """Write both sets and their pictures: `sugarcrepe/`, `sugarcrepe_pp/`, `images/`, and a manifest of checksums.

    Args:
        root: receives the files.
        rows: of each subset.
        split: whose scenes.
    """
    (root / "images").mkdir(parents=True)
    pictures: dict[str, Picture] = {}
    for subset in tqdm(SUGARCREPE, desc="SugarCrepe-mini", unit="subset"):
        made = [(Picture(scene), captions) for scene, captions in make_rows(subset, rows, split)]
        pictures |= {picture.path: picture for picture, _ in made}
        names = [picture.path.removeprefix("images/") for picture, _ in made]
        plain = {
            str(i): {"filename": name, **{k: v for k, v in captions.items() if k != "caption2"}}
            for i, (name, (_, captions)) in enumerate(zip(names, made, strict=True))
        }
        write_json(root / PLAIN / f"{subset}.json", plain)
        if subset in SUGARCREPE_PP:
            plus = [{"id": i, "filename": n, **c} for i, (n, (_, c)) in enumerate(zip(names, made, strict=True))]
            write_json(root / PLUS / f"{subset}.json", plus)
    for picture in pictures.values():
        picture.save(root)
    write_json(root / MANIFEST, {"version": VERSION, "rows": rows, "split": split, "files": _digests(root)})


def _digests(root: Path) -> dict[str, str]:
    tables: Sequence[Path] = sorted(root.glob("sugarcrepe*/*.json"))
    images = fingerprint([[path.name, file_digest(path)] for path in sorted((root / "images").iterdir())])
    return {**{path.relative_to(root).as_posix(): file_digest(path) for path in tables}, "images": images}


def prepare_crepe(cache: Path, rows: int = 300, split: Split = "test") -> Path:
    """The folder of a build, made if it is not there; half-written builds are never seen."""
    key = fingerprint([VERSION, rows, split, code_fingerprint("glyphworld.crepe")])
    root = cache / f"sugarcrepe-mini-{key}"
    return build_once(root, lambda partial: build_crepe(partial, rows, split))


def identity(root: Path) -> str:
    """What a build is called in provenance: the digest of its manifest, which has the checksum of every file."""
    return file_digest(root / MANIFEST)[:16]


def load_crepe(root: Path) -> dict[str, dict[str, list[CrepeRow]]]:
    """Read both sets of a build with the readers of the published files: "sugarcrepe" and "sugarcrepe_pp" by subset."""
    readers = {PLAIN: (read_sugarcrepe, SUGARCREPE), PLUS: (read_sugarcrepe_pp, SUGARCREPE_PP)}
    return {
        name: with_images({subset: read(root / name, subset, root / "images") for subset in subsets})[0]
        for name, (read, subsets) in readers.items()
    }
