"""English about scenes, in lower case: captions, questions with their answers, and edits."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from g2e_lib.glyphworld.world.scenes import RELATIONS, Scene, Statement, Thing, sample_thing
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, HELD_OUT, KIND_OF, NUMBERS, OBJECTS, PLACES

Caption = Callable[[Scene, random.Random], tuple[str, Statement]]  # a text about a scene, and what it states
TEMPLATES = ("{}", "a picture of {}", "there is {}", "an image with {}")


def with_article(words: str) -> str:
    """Put the indefinite article before `words`.

    >>> with_article("orange cat"), with_article("red sun")
    ('an orange cat', 'a red sun')
    """
    return ("an " if words[0] in "aeiou" else "a ") + words


def phrase(thing: Thing) -> str:
    """Name a thing, with its colour if that is said: 'a red sun'."""
    return with_article(f"{thing.colour} {thing.name}" if thing.colour else thing.name)


def join_with_and(parts: list[str]) -> str:
    """Join as English does.

    >>> join_with_and(["a", "b", "c"])
    'a, b and c'
    """
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def short_caption(scene: Scene, rng: random.Random) -> tuple[str, Statement]:
    """A caption that names every object and colour but neither places nor background, in one of five wordings."""
    things = rng.sample(scene.things, len(scene.things))
    statement = Statement(tuple(t.somewhere() for t in things))
    phrases = [phrase(t) for t in things]
    if len(things) == 2 and rng.random() < 0.5:
        relation = next((r for r in RELATIONS if scene.related(things[1], r) == things[0]), None)
        if relation:
            return f"{phrases[0]} {relation} {phrases[1]}", replace(statement, relations=((0, relation, 1),))
    template = rng.choice((*TEMPLATES, None))
    if template is None:
        return ", ".join(f"{t.colour} {t.name}" for t in things), statement
    return template.format(join_with_and(phrases)), statement


def long_caption(scene: Scene, rng: random.Random) -> tuple[str, Statement]:
    """A caption that says everything: background, count, and each object with colour and place."""
    things = rng.sample(scene.things, len(scene.things))
    statement = Statement(tuple(things), background=scene.background, count=len(things))
    number, places = NUMBERS[len(things)], [PLACES[t.place] for t in things]
    objects = "object" if len(things) == 1 else "objects"
    backdrop = rng.choice(
        (
            f"the background is {scene.background}. there {'is' if number == 'one' else 'are'} {number} {objects}.",
            f"{number} {objects} on a {scene.background} background.",
            f"this image shows {number} {objects}. the background is {scene.background}.",
        )
    )
    sentences = "{phrase} is at the {place}.", "at the {place} there is {phrase}.", "at the {place}: {phrase}."
    sentence = rng.choice(sentences)
    details = [sentence.format(phrase=phrase(t), place=p) for t, p in zip(things, places, strict=True)]
    parts = [backdrop, *details] if rng.random() < 0.7 else [*details, backdrop]
    return " ".join(parts), statement


@dataclass(frozen=True)
class Question:
    """A question about one scene with its only right answer."""

    kind: str
    text: str
    answer: str


def questions(
    scene: Scene, rng: random.Random, knows_places: bool = True, knows_background: bool = True
) -> list[Question]:
    """All that a scene, or its caption without places or background, answers unambiguously, worded at random."""
    found = [*_thing_questions(scene, rng), *_count_questions(scene, rng)]
    if knows_places:
        found += _place_questions(scene, rng)
    if knows_background:
        wordings = "what is the background?", "what colour is the background?"
        found.append(_asked(rng, "background", wordings, "", scene.background))
    return found


def _asked(rng: random.Random, kind: str, wordings: Sequence[str], about: str, answer: str) -> Question:
    return Question(kind, rng.choice(wordings).format(about), answer)


def _thing_questions(scene: Scene, rng: random.Random) -> list[Question]:
    found = []
    colours = [t.colour for t in scene.things]
    for t in scene.things:
        if len(scene.named(t.name)) == 1:
            wordings = "what colour is the {}?", "which colour does the {} have?", "the {} is which colour?"
            found.append(_asked(rng, "colour", wordings, t.name, t.colour))
        if colours.count(t.colour) == 1:
            wordings = "what is the {} object?", "which object is {}?"
            found.append(_asked(rng, "by colour", wordings, t.colour, t.name))
            found.append(Question("kind", f"what kind of thing is the {t.colour} object?", KIND_OF[t.name]))
    if len(scene.things) == 1:
        wordings = "what is this?", "what object is shown?", "name the object."
        found.append(_asked(rng, "single", wordings, "", scene.things[0].name))
    name = rng.choice([t.name for t in scene.things]) if rng.random() < 0.5 else rng.choice(OBJECTS)
    return [*found, Question("exists", f"is there {with_article(name)}?", "yes" if scene.named(name) else "no")]


def _count_questions(scene: Scene, rng: random.Random) -> list[Question]:
    colour = rng.choice([t.colour for t in scene.things]) if rng.random() < 0.7 else rng.choice(tuple(COLOURS))
    of_colour = sum(t.colour == colour for t in scene.things)
    wordings = "how many objects are there?", "how many objects do you see?", "count the objects."
    return [
        _asked(rng, "count", wordings, "", NUMBERS[len(scene.things)]),
        Question("count colour", f"how many objects are {colour}?", NUMBERS[of_colour]),
    ]


def _place_questions(scene: Scene, rng: random.Random) -> list[Question]:
    found = []
    by_place = {t.place: t for t in scene.things}
    for place, name in enumerate(PLACES):
        thing = by_place.get(place)
        wordings = "what is at the {}?", "what object is at the {}?", "which object is in the {} corner?"
        found.append(_asked(rng, "at place", wordings, name, thing.name if thing else "nothing"))
        if thing:
            found.append(Question("colour at", f"what colour is the object at the {name}?", thing.colour))
            found.append(Question("describe at", f"describe the object at the {name}.", phrase(thing)))
            found.append(Question("kind", f"what kind of thing is at the {name}?", KIND_OF[thing.name]))
    for t in scene.things:
        if len(scene.named(t.name)) == 1:
            wordings = "where is the {}?", "in which corner is the {}?"
            found.append(_asked(rng, "where", wordings, t.name, PLACES[t.place]))
            others = ((relation, scene.related(t, relation)) for relation in RELATIONS)
            found += [Question("relation", f"what is {r} the {t.name}?", o.name) for r, o in others if o]
    return [*found, Question("list", "list the objects.", ", ".join(t.name for t in scene.things))]


@dataclass(frozen=True)
class Edit:
    """An instruction that changes a scene, and the scene it leads to."""

    kind: str
    text: str
    result: Scene


def _replace_thing(scene: Scene, old: Thing, *new: Thing) -> Scene:
    things = [t for t in scene.things if t != old] + list(new)
    return Scene(scene.background, tuple(sorted(things, key=lambda t: t.place)))


def edits(scene: Scene, rng: random.Random) -> list[Edit]:
    """One edit of every kind that is possible and unambiguous in `scene`; none makes a held-out combination."""
    unique = [t for t in scene.things if len(scene.named(t.name)) == 1]
    free = [p for p in range(4) if p not in [t.place for t in scene.things]]
    found = _thing_edits(scene, rng.choice(unique), free, rng) if unique else []
    if free:
        new = sample_thing(rng, rng.choice(free))
        text = rng.choice(("add {} at the {}", "put {} at the {}")).format(phrase(new), PLACES[new.place])
        found.append(Edit("add", text, _replace_thing(scene, new, new)))
    background = rng.choice([b for b in BACKGROUNDS if b != scene.background])
    text = rng.choice(("make the background {}", "change the background to {}")).format(background)
    found.append(Edit("background", text, replace(scene, background=background)))
    return found + _swaps(scene, unique, rng)


def _thing_edits(scene: Scene, t: Thing, free: Sequence[int], rng: random.Random) -> list[Edit]:
    colour = rng.choice([c for c in COLOURS if c != t.colour and (t.name, c) not in HELD_OUT])
    text = rng.choice(("make the {} {}", "change the colour of the {} to {}", "paint the {} {}"))
    found = [Edit("recolour", text.format(t.name, colour), _replace_thing(scene, t, replace(t, colour=colour)))]
    name = rng.choice([n for n in OBJECTS if not scene.named(n) and (n, t.colour) not in HELD_OUT])
    text = rng.choice(("replace the {} with {}", "change the {} into {}", "turn the {} into {}"))
    new = _replace_thing(scene, t, replace(t, name=name))
    found.append(Edit("rename", text.format(t.name, with_article(name)), new))
    if free:
        place = rng.choice(free)
        text = rng.choice(("move the {} to the {}", "put the {} at the {}")).format(t.name, PLACES[place])
        found.append(Edit("move", text, _replace_thing(scene, t, replace(t, place=place))))
    if len(scene.things) > 1:
        text = rng.choice(("remove the {}", "take the {} away", "leave out the {}")).format(t.name)
        found.append(Edit("remove", text, _replace_thing(scene, t)))
    return found


def _swaps(scene: Scene, unique: list[Thing], rng: random.Random) -> list[Edit]:
    if len(unique) < 2:
        return []
    a, b = rng.sample(unique, 2)
    others = _replace_thing(_replace_thing(scene, a), b)
    moved = _replace_thing(others, a, replace(a, place=b.place), replace(b, place=a.place))
    found = [Edit("swap places", f"swap the {a.name} and the {b.name}", moved)]
    recoloured = replace(a, colour=b.colour), replace(b, colour=a.colour)
    if a.colour != b.colour and not any((t.name, t.colour) in HELD_OUT for t in recoloured):
        text = f"swap the colours of the {a.name} and the {b.name}"
        found.append(Edit("swap colours", text, _replace_thing(others, a, *recoloured)))
    return found
