"""SugarCrepe-mini and SugarCrepe++-mini: GlyphWorld's own rows in the published files' formats.

Two captions true of the picture, and a false one worded alike; the scene decides, so nothing else tells them apart.
"""

import random
from dataclasses import replace
from pathlib import Path

from tqdm.auto import tqdm

from g2e_lib.data.sugarcrepe import SUGARCREPE, SUGARCREPE_PP, CrepeRow, with_images
from g2e_lib.data.sugarcrepe import read_sugarcrepe as read_plain
from g2e_lib.data.sugarcrepe import read_sugarcrepe_pp as read_plus
from g2e_lib.glyphworld.builds import MANIFEST, build_folder, digests, identity, save_pictures  # noqa: F401
from g2e_lib.glyphworld.datasets import Picture
from g2e_lib.glyphworld.world.language import TEMPLATES, join_with_and, phrase
from g2e_lib.glyphworld.world.scenes import RELATIONS, Relation, Scene, Split, Statement, Thing, sample_scene
from g2e_lib.glyphworld.world.vocabulary import COLOURS, HELD_OUT, OBJECTS
from g2e_lib.project.config import fingerprint
from g2e_lib.project.store import build_once, write_json

VERSION = 1  # raise when the content changes
PLAIN, PLUS = "sugarcrepe", "sugarcrepe_pp"  # folders of the two, beside images/
OPPOSITE: dict[Relation, Relation] = dict(zip(RELATIONS, ("below", "above", "right of", "left of"), strict=True))


def say(statement: Statement, template: str) -> str:
    """The words for things in order, or for one thing, its relation to another, and that other.

    >>> related = Statement((Thing(None, "sun", "red"), Thing(None, "cat", None)), relations=((0, "above", 1),))
    >>> say(related, "there is {}")
    'there is a red sun above a cat'
    """
    phrases = [phrase(t) for t in statement.things]
    relation = next((relation for _, relation, _ in statement.relations), None)
    return template.format(f" {relation} ".join(phrases) if relation else join_with_and(phrases))


def _related(scene: Scene, rng: random.Random) -> Statement | None:
    """Two things of the scene and a relation between them, if it has any."""
    pairs = [(a, r, b) for b in scene.things for r in RELATIONS if (a := scene.related(b, r))]
    if not pairs:
        return None
    first, relation, second = rng.choice(pairs)
    return Statement((first.somewhere(), second.somewhere()), relations=((0, relation, 1),))


def _with(statement: Statement, index: int, thing: Thing) -> Statement:
    return replace(statement, things=(*statement.things[:index], thing, *statement.things[index + 1 :]))


def _other_name(scene: Scene, thing: Thing, rng: random.Random) -> str:
    return rng.choice([n for n in OBJECTS if not scene.named(n) and (n, thing.colour) not in HELD_OUT])


def _other_colour(thing: Thing, colour: str, rng: random.Random) -> str:
    return rng.choice([c for c in COLOURS if c != colour and (thing.name, c) not in HELD_OUT])


def make_statements(subset: str, scene: Scene, rng: random.Random) -> tuple[Statement, Statement] | None:
    """What is said of a scene, and what is falsely said instead; None if the scene does not lend itself to `subset`."""
    if subset in ("replace_rel", "swap_obj"):
        statement = _related(scene, rng)
    else:  # all things in some order
        statement = Statement(tuple(t.somewhere() for t in rng.sample(scene.things, len(scene.things))))
    if statement is None or len(statement.things) < 2:
        return None
    index = rng.randrange(len(statement.things))
    thing = statement.things[index]
    if subset == "replace_obj":
        return statement, _with(statement, index, replace(thing, name=_other_name(scene, thing, rng)))
    if subset == "replace_att":
        return statement, _with(statement, index, replace(thing, colour=_other_colour(thing, thing.colour, rng)))
    if subset == "replace_rel":
        ((first, relation, second),) = statement.relations
        other = rng.choice([r for r in RELATIONS if r != relation])
        return statement, replace(statement, relations=((first, other, second),))
    if subset == "swap_obj":
        return statement, replace(statement, things=statement.things[::-1])
    if subset == "swap_att":
        return _swapped_colours(statement, index, rng)
    if subset == "add_obj":
        added = Thing(None, _other_name(scene, thing, rng), None)
        added = replace(added, colour=_other_colour(added, "", rng))
        things = list(statement.things)
        things.insert(rng.randrange(len(things) + 1), added)
        return statement, Statement(tuple(things))
    coloured = replace(thing, colour=_other_colour(thing, thing.colour, rng))  # add_att: a colour where none was said
    return _with(statement, index, replace(thing, colour=None)), _with(statement, index, coloured)


def _swapped_colours(statement: Statement, index: int, rng: random.Random) -> tuple[Statement, Statement] | None:
    other = rng.choice([i for i in range(len(statement.things)) if i != index])
    one, two = statement.things[index], statement.things[other]
    swapped = replace(one, colour=two.colour), replace(two, colour=one.colour)
    if one.colour == two.colour or any((t.name, t.colour) in HELD_OUT for t in swapped):
        return None
    return statement, _with(_with(statement, index, swapped[0]), other, swapped[1])


def make_row(subset: str, scene: Scene, rng: random.Random) -> dict[str, str] | None:
    """Caption, second caption (other template and order, relations seen from the other side) and negative, or None."""
    made = make_statements(subset, scene, rng)
    if made is None:
        return None
    statement, negative = made
    if not statement.holds(scene) or negative.holds(scene):  # such as a swap of two alike things
        return None
    first, second = rng.sample(TEMPLATES, 2)
    turned = Statement(statement.things[::-1], relations=tuple((i, OPPOSITE[r], j) for i, r, j in statement.relations))
    return {"caption": say(statement, first), "caption2": say(turned, second), "negative_caption": say(negative, first)}


def make_rows(subset: str, count: int, split: Split) -> list[tuple[Scene, dict[str, str]]]:
    """`count` distinct scenes of a split with their captions, for a name in SUGARCREPE."""
    rng, found = random.Random(f"{subset} {split} {VERSION}"), {}
    while len(found) < count:
        scene = sample_scene(rng, split, count=rng.choice((2, 2, 3)))
        row = make_row(subset, scene, rng)
        if row and scene not in found:
            found[scene] = row
    return list(found.items())


def build_crepe(root: Path, rows: int = 300, split: Split = "test") -> None:
    """Write both sets, with `rows` of each subset: `sugarcrepe/`, `sugarcrepe_pp/`, `images/`, and a manifest."""
    pictures: list[Picture] = []
    for subset in tqdm(SUGARCREPE, desc="SugarCrepe-mini", unit="subset"):
        plain, plus = {}, []
        for i, (scene, captions) in enumerate(make_rows(subset, rows, split)):
            pictures.append(picture := Picture(scene))
            whole = {"filename": picture.path.removeprefix("images/"), **captions}
            plain[str(i)] = {key: value for key, value in whole.items() if key != "caption2"}
            plus.append({"id": i, **whole})
        write_json(root / PLAIN / f"{subset}.json", plain)
        if subset in SUGARCREPE_PP:
            write_json(root / PLUS / f"{subset}.json", plus)
    save_pictures(root, pictures)
    tables = digests(root, "sugarcrepe*/*.json")
    images = fingerprint([[Path(name).name, digest] for name, digest in digests(root, "images/*").items()])
    files = {**tables, "images": images}
    write_json(root / MANIFEST, {"version": VERSION, "rows": rows, "split": split, "files": files})


def prepare_crepe(cache: Path, rows: int = 300, split: Split = "test") -> Path:
    """The folder of a build, made if it is not there."""
    root = build_folder(cache, "sugarcrepe-mini", "glyphworld.crepe", VERSION, rows, split)
    return build_once(root, lambda partial: build_crepe(partial, rows, split))


def load_crepe(root: Path) -> dict[str, dict[str, list[CrepeRow]]]:
    """Read both sets of a build with the readers of the published files: "sugarcrepe" and "sugarcrepe_pp" by subset."""
    readers = {PLAIN: (read_plain, SUGARCREPE), PLUS: (read_plus, SUGARCREPE_PP)}
    return {
        name: with_images({subset: read(root / name, subset, root / "images") for subset in subsets})[0]
        for name, (read, subsets) in readers.items()
    }
