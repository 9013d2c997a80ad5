import random

import pytest

from g2e_lib.glyphworld.world.language import edits, long_caption, questions, short_caption
from g2e_lib.glyphworld.world.scenes import RELATIONS, Scene, Thing, sample_scene
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, HELD_OUT, KIND_OF, NUMBERS, OBJECTS, PLACES


@pytest.fixture(scope="module")
def scenes():
    rng = random.Random(0)
    return [sample_scene(rng, None) for _ in range(400)]


def test_captions_state_what_they_say_and_are_true(scenes):
    rng = random.Random(1)
    for scene in scenes:
        for caption, is_long in ((short_caption, False), (long_caption, True)):
            text, statement = caption(scene, rng)
            assert statement.holds(scene)
            assert len(statement.things) == len(scene.things)
            assert all(t.name in text and t.colour in text for t in scene.things)
            if is_long:
                assert scene.background in text
                assert all(PLACES[t.place] in text for t in scene.things)


def test_long_captions_are_true_of_one_scene_only(scenes):
    rng = random.Random(2)
    for scene, other in zip(scenes, scenes[1:], strict=False):
        _, statement = long_caption(scene, rng)
        assert statement.holds(other) == (scene == other)


def answer(scene, text):
    """The right answer, found from the words of the question alone."""
    words = text.rstrip("?.")
    by_place = {PLACES[t.place]: t for t in scene.things}
    place = next((p for p in PLACES if p in words), None)
    name = next((n for n in OBJECTS if f" {n} " in f" {words.replace(',', '')} "), None)
    thing = next((t for t in scene.things if t.name == name), None)
    colour = next((c for c in COLOURS if f" {c} " in f" {words} "), None)
    coloured = [t for t in scene.things if t.colour == colour]
    relation = next((r for r in RELATIONS if f" {r} the" in words), None)
    if words.startswith("is there"):
        return "yes" if thing else "no"
    if relation:
        return scene.related(thing, relation).name
    if "background" in words:
        return scene.background
    if "how many" in words or "count the" in words:
        return NUMBERS[len(coloured) if colour else len(scene.things)]
    if words == "list the objects":
        return ", ".join(t.name for t in scene.things)
    if place:
        there = by_place.get(place)
        if words.startswith("describe"):
            return f"{'an' if there.colour[0] in 'aeiou' else 'a'} {there.colour} {there.name}"
        if words.startswith("what kind"):
            return KIND_OF[there.name]
        if words.startswith("what colour"):
            return there.colour
        return there.name if there else "nothing"
    if words.startswith(("where", "in which")):
        return PLACES[thing.place]
    if thing:
        return thing.colour
    if colour:
        return KIND_OF[coloured[0].name] if words.startswith("what kind") else coloured[0].name
    return scene.things[0].name


def test_every_answer_is_right_and_the_only_one(scenes):
    rng = random.Random(3)
    kinds = set()
    for scene in scenes:
        for question in questions(scene, rng):
            kinds.add(question.kind)
            assert question.answer == answer(scene, question.text), (scene.content, question)
    assert {"colour", "at place", "count", "kind", "relation", "single", "exists", "where"} <= kinds


def test_questions_a_caption_cannot_answer_are_left_out(scenes):
    rng = random.Random(4)
    for scene in scenes[:50]:
        for question in questions(scene, rng, knows_places=False, knows_background=False):
            assert not any(place in question.text + question.answer for place in PLACES)
            assert "background" not in question.text


def test_edits_change_what_they_say(scenes):
    rng = random.Random(5)
    for scene in scenes:
        for edit in edits(scene, rng):
            before, after = set(scene.things), set(edit.result.things)
            changed = len(before - after), len(after - before)
            expected = {
                "recolour": (1, 1), "rename": (1, 1), "move": (1, 1), "remove": (1, 0), "add": (0, 1),
                "background": (0, 0), "swap places": (2, 2), "swap colours": (2, 2),
            }  # fmt: skip
            assert changed == expected[edit.kind], (scene.content, edit)
            assert (edit.result.background != scene.background) == (edit.kind == "background")
            assert edit.result.background in BACKGROUNDS
            assert not any((t.name, t.colour) in HELD_OUT for t in after)
            places = [t.place for t in edit.result.things]
            assert places == sorted(set(places))


def test_an_edit_spelled_out():
    scene = Scene("white", (Thing(0, "sun", "red"),))
    (recolour,) = [e for e in edits(scene, random.Random(0)) if e.kind == "recolour"]
    colour = recolour.result.things[0].colour
    assert colour in recolour.text
    assert "sun" in recolour.text
