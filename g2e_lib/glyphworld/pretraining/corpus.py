"""Conversations the base model is pre-trained on: generative instruction data about scenes, and nothing else.

Questions, descriptions, one-word summaries, edits and pointing; no two items are compared, so nothing is contrastive.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations

from g2e_lib.glyphworld.pretraining import requests
from g2e_lib.glyphworld.pretraining.requests import ask_for_one_word, plain_system, wrap
from g2e_lib.glyphworld.world.language import (
    Question,
    edits,
    join_with_and,
    long_caption,
    phrase,
    questions,
    short_caption,
    with_article,
)
from g2e_lib.glyphworld.world.scenes import Scene, Split, Thing, sample_scene, sample_thing
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, KIND_OF, KINDS, NUMBERS, OBJECTS, PLACES
from g2e_lib.prompts import ASSISTANT_HEADER, TURN_END, turn, user_content

QUESTIONS_PER_DIALOGUE = 8
IN_SEVERAL_WORDS = ("list", "describe at")  # kinds of questions that cannot be answered in one word or place


@dataclass(frozen=True)
class Conversation:
    """A chat about one picture, one text, or nothing."""

    turns: tuple[tuple[str, str], ...]  # (user, assistant); the picture, if any, stands first in the first user turn
    system: str | None = None  # message, or None for no system turn
    scene: Scene | None = None  # what the picture shows, or None for a chat without one
    place: int | None = None  # 0..3 shows only the crop around the thing at that place, None the whole picture
    view: int = 0  # which drawing of the scene

    def segments(self) -> Iterator[tuple[str, bool]]:
        """The conversation as text pieces, each with whether the assistant wrote it (and the loss counts it)."""
        if self.system is not None:
            yield turn("system", self.system), False
        for index, (user, assistant) in enumerate(self.turns):
            yield turn("user", user_content(user, index == 0 and self.scene is not None)) + ASSISTANT_HEADER, False
            yield assistant + TURN_END, True
            yield "\n", False


def one_word(scene_or_thing: Scene | Thing, rng: random.Random) -> str:
    """A one-word summary as one of many annotators might give it: an object, a colour, a kind or the background."""
    is_scene = isinstance(scene_or_thing, Scene)
    thing = rng.choice(scene_or_thing.things) if is_scene else scene_or_thing
    draw = rng.random()
    if draw < 0.55:
        return thing.name
    if draw < 0.85:
        return thing.colour
    return scene_or_thing.background if is_scene and draw < 0.90 else KIND_OF[thing.name]


def _turns(rng: random.Random, pool: list[Question]) -> list[tuple[str, str]]:
    return [(q.text, q.answer) for q in rng.sample(pool, min(QUESTIONS_PER_DIALOGUE, len(pool)))]


def image_dialogue(rng: random.Random, scene: Scene) -> Conversation:
    """Questions on a picture, opened or closed by a description of everything."""
    turns = _turns(rng, questions(scene, rng))
    describe = rng.choice(("describe the image.", "Describe the picture in detail.", "what does the image show?"))
    caption, _ = long_caption(scene, rng)
    turns.insert(rng.choice((0, len(turns))), (describe, caption))
    return _about_picture(rng, scene, turns)


def text_dialogue(rng: random.Random, scene: Scene) -> Conversation:
    """Questions on a description, opened or closed by saying it again; a short one is asked only what it says."""
    is_long = rng.random() < 0.75
    caption = long_caption if is_long else short_caption
    context = caption(scene, rng)[0]
    turns = _turns(rng, questions(scene, rng, knows_places=is_long, knows_background=is_long))
    other_words = caption(scene, rng)[0]
    dense = rng.choice((("repeat the text.", context), ("say it in other words.", other_words)))
    turns.insert(rng.choice((0, len(turns))), dense)
    return _about_text(rng, context, turns)


def binding(rng: random.Random, scene: Scene) -> Conversation:
    """Questions on which colour, object and place belong together, and nothing else, on a picture or a full text."""
    asked = [q for q in questions(scene, rng) if q.kind in ("colour", "by colour", "at place", "colour at", "where")]
    return _about_picture_or_text(rng, scene, _turns(rng, asked))


def named(rng: random.Random, scene: Scene) -> Conversation:
    """Questions that name an object: it has to be found among sixty, and so these are learned last."""
    asked = [q for _ in range(2) for q in questions(scene, rng) if q.kind in ("colour", "where")]
    return _about_picture_or_text(rng, scene, _turns(rng, asked)) if asked else inventory(rng, scene)


def inventory(rng: random.Random, scene: Scene) -> Conversation:
    """Lists of every object, colour and place, in all orders, no word between: an answer is one look away."""
    turns = []
    for order in rng.sample(tuple(permutations(range(3))), 3):
        entries = [(t.name, t.colour, PLACES[t.place]) for t in rng.sample(scene.things, len(scene.things))]
        columns = [("object", "colour", "place")[column] for column in order]
        answer = "; ".join(" ".join(entry[column] for column in order) for entry in entries)
        turns.append((f"list every {join_with_and(columns)}.", answer))
    return _about_picture_or_text(rng, scene, turns)


def _about_picture(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Conversation:
    return Conversation(tuple(turns), plain_system(rng), scene, view=rng.getrandbits(32))


def _about_text(rng: random.Random, context: str, turns: list[tuple[str, str]]) -> Conversation:
    (first, answer), *rest = turns
    return Conversation(((f"{context}\n{first}", answer), *rest), plain_system(rng))


def _about_picture_or_text(rng: random.Random, scene: Scene, turns: list[tuple[str, str]]) -> Conversation:
    if rng.random() < 0.5:
        return _about_picture(rng, scene, turns)
    return _about_text(rng, long_caption(scene, rng)[0], turns)


def repetition(rng: random.Random, scene: Scene) -> Conversation:
    """A description to be said again word for word: the shortest way to learn to look back at a text."""
    context = (long_caption if rng.random() < 0.75 else short_caption)(scene, rng)[0]
    return _about_text(rng, context, [("repeat the text.", context)])


def one_word_image(rng: random.Random, scene: Scene) -> Conversation:
    """A picture, or a crop of one, summarized in one word."""
    about = rng.choice(requests.ABOUT_IMAGE) if rng.random() < 0.5 else ""
    system, user = ask_for_one_word(rng, about, has_image=True)
    place = rng.choice(scene.things).place if rng.random() < 0.25 else None
    shown = next((t for t in scene.things if t.place == place), scene)
    return Conversation(((user, one_word(shown, rng)),), system, scene, place, rng.getrandbits(32))


def one_word_text(rng: random.Random, scene: Scene) -> Conversation:
    """A caption, a dialogue, or a bare word or two, summarized in one word."""
    draw = rng.random()
    if draw < 0.4:
        text, answer = bare_words(rng)
    elif draw < 0.5:
        pool = [q for q in questions(scene, rng) if q.kind not in IN_SEVERAL_WORDS]
        asked = rng.sample(pool, min(3, len(pool)))
        text, answer = " ".join(f"{q.text} {q.answer}." for q in asked), rng.choice(asked).answer
    else:
        caption = long_caption if rng.random() < 0.4 else short_caption
        text, answer = caption(scene, rng)[0], one_word(scene, rng)
    system, user = ask_for_one_word(rng, wrap(rng, requests.ABOUT_TEXT, text), has_image=False)
    return Conversation(((user, answer),), system)


def bare_words(rng: random.Random) -> tuple[str, str]:
    """An answer or a class name on its own, and its one-word summary."""
    draw = rng.random()
    if draw < 0.45:
        name = rng.choice(OBJECTS)
        return rng.choice((name, name, with_article(name))), name if rng.random() < 0.8 else KIND_OF[name]
    if draw < 0.65:
        thing = sample_thing(rng, 0)
        return rng.choice((f"{thing.colour} {thing.name}", phrase(thing))), one_word(thing, rng)
    answers = (*COLOURS,), (*KINDS,), NUMBERS, PLACES, (*BACKGROUNDS,), ("yes", "no", "nothing")
    word = rng.choice(rng.choice(answers))
    return word, word


def one_word_answer(rng: random.Random, scene: Scene) -> Conversation:
    """A picture with a question, an edit, a part or a caption, answered in one word."""
    task = rng.choice(("question", "question", "edit", "part", "caption"))
    if task == "question":
        question = rng.choice([q for q in questions(scene, rng) if q.kind not in IN_SEVERAL_WORDS])
        content, answer = wrap(rng, requests.ABOUT_QUESTION, question.text), question.answer
    elif task == "edit":
        edit = rng.choice(edits(scene, rng))
        content, answer = wrap(rng, requests.ABOUT_EDIT, edit.text), one_word(edit.result, rng)
    elif task == "part":
        content, thing = _part(rng, scene)
        answer = one_word(thing, rng)
    else:
        caption = short_caption(scene, rng)[0]
        content, answer = rng.choice(requests.ABOUT_IMAGE_TEXT).format(caption), one_word(scene, rng)
    system, user = ask_for_one_word(rng, content, has_image=True)
    return Conversation(((user, answer),), system, scene, view=rng.getrandbits(32))


def _part(rng: random.Random, scene: Scene) -> tuple[str, Thing]:
    thing = rng.choice(scene.things)
    names = [f"the {thing.colour} {thing.name}", f"the object at the {PLACES[thing.place]}"]
    if len(scene.named(thing.name)) == 1:
        names.append(f"the {thing.name}")
    return rng.choice(requests.ABOUT_PART).format(rng.choice(names)), thing


def instructed(rng: random.Random, scene: Scene) -> Conversation:
    """Edits, parts, captions and paraphrases carried out in full sentences."""
    task = rng.choice(("edit", "edit", "part", "caption", "rewrite"))
    view = rng.getrandbits(32)
    if task == "edit":
        edit = rng.choice(edits(scene, rng))
        user = wrap(rng, requests.ABOUT_EDIT, edit.text) + rng.choice(("", "\ndescribe the result."))
        answer = long_caption(edit.result, rng)[0]
    elif task == "part":
        user, thing = _part(rng, scene)
        answer = f"{phrase(thing)} at the {PLACES[thing.place]}"
    else:
        answer = short_caption(scene, rng)[0]
        if task == "rewrite":
            names = join_with_and([f"the {t.colour} {t.name}" for t in rng.sample(scene.things, len(scene.things))])
            user = rng.choice(("rewrite: {}", "say it differently: {}", *requests.ABOUT_TEXT)).format(names)
            return Conversation(((user, answer),), plain_system(rng))
        user = rng.choice(("caption the image.", "Write a short caption.", *requests.ABOUT_IMAGE[:4]))
    return Conversation(((user, answer),), plain_system(rng), scene, view=view)


def uninstructed(rng: random.Random, scene: Scene) -> Conversation:
    """What the model says when nothing is asked: it describes a picture, restates a caption, explains a word."""
    draw = rng.random()
    if draw < 0.4:
        place = rng.choice(scene.things).place if rng.random() < 0.2 else None
        shown = next((t for t in scene.things if t.place == place), None)
        caption = f"this image shows {phrase(shown)}." if shown else long_caption(scene, rng)[0]
        return Conversation((("", caption),), plain_system(rng), scene, place, rng.getrandbits(32))
    if draw < 0.7:
        text = (long_caption if rng.random() < 0.5 else short_caption)(scene, rng)[0]
        return Conversation(((text, short_caption(scene, rng)[0]),), plain_system(rng))
    word = rng.choice((*OBJECTS, *COLOURS, *NUMBERS, *PLACES))
    kind = KIND_OF.get(word) or ("colour" if word in COLOURS else "number" if word in NUMBERS else "place")
    ask = rng.choice(("", "", "what is {}?", "what kind of thing is {}?")).format(with_article(word))
    return Conversation(((ask or word, f"{with_article(word)} is a kind of {kind}."),), plain_system(rng))


# Shares of conversations. Dialogues are dense in signal (about ten answers each), so they dominate the tokens too.
MIXTURE = (
    (image_dialogue, 0.27),
    (text_dialogue, 0.27),
    (one_word_image, 0.10),
    (one_word_text, 0.12),
    (one_word_answer, 0.10),
    (instructed, 0.07),
    (uninstructed, 0.07),
)


@dataclass(frozen=True)
class Lesson:
    """What is taught for a while."""

    mixture: tuple[tuple[Callable[[random.Random, Scene], Conversation], float], ...]  # makers and their shares
    few: float = 0.0  # share about FEW_OBJECTS only, in which what belongs to what is learned soonest


FEW_OBJECTS = OBJECTS[::8]
LESSONS = {
    "everything": Lesson(MIXTURE),
    "repetition": Lesson(((repetition, 1.0),)),
    "dialogues": Lesson(((image_dialogue, 0.5), (text_dialogue, 0.5))),
    "binding": Lesson(((binding, 1.0),)),
    "dialogues and binding": Lesson(((image_dialogue, 0.2), (text_dialogue, 0.2), (binding, 0.6))),
    "few objects": Lesson(((image_dialogue, 0.1), (text_dialogue, 0.1), (binding, 0.8)), few=1.0),
    "few objects, listed": Lesson(
        ((image_dialogue, 0.1), (text_dialogue, 0.1), (binding, 0.3), (inventory, 0.5)), few=1.0
    ),
    "listed": Lesson(((image_dialogue, 0.15), (text_dialogue, 0.15), (binding, 0.3), (inventory, 0.4)), few=0.5),
    "named": Lesson(
        ((image_dialogue, 0.1), (text_dialogue, 0.15), (binding, 0.1), (named, 0.4), (inventory, 0.25)), few=0.5
    ),
    "everything and binding": Lesson(
        (*((maker, 0.5 * share) for maker, share in MIXTURE), (binding, 0.25), (named, 0.1), (inventory, 0.15))
    ),
}


def sample_conversation(rng: random.Random, split: Split = "train", lesson: str = "everything") -> Conversation:
    """Draw a conversation about a scene of `split`, without held-out combinations."""
    few = LESSONS[lesson].few
    names = FEW_OBJECTS if few == 1 or (few > 0 and rng.random() < few) else OBJECTS
    makers, weights = zip(*LESSONS[lesson].mixture, strict=True)
    return rng.choices(makers, weights)[0](rng, sample_scene(rng, split, names=names))
