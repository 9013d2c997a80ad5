import random
import re

import pytest

from g2e_lib.glyphworld import datasets
from g2e_lib.glyphworld.pretraining import corpus
from g2e_lib.glyphworld.pretraining.corpus import (
    FEW_OBJECTS,
    LESSONS,
    inventory,
    named,
    sample_conversation,
)
from g2e_lib.glyphworld.pretraining.requests import PAPER_SENTENCES, quotes_a_paper
from g2e_lib.glyphworld.world.scenes import Scene, Thing
from g2e_lib.prompts import ASSISTANT_HEADER, PROMPTS, render

BENCHMARK_LINES = (
    datasets.REPRESENT, datasets.CLASSIFY, datasets.ASK, datasets.MATCH_CAPTION, datasets.DESCRIBE,
    datasets.CHANGE, datasets.FIND_CAPTIONED, datasets.CAPTIONED, datasets.SELECT, datasets.SELECT_ANSWER,
    datasets.CROPPED,
)  # fmt: skip


@pytest.fixture(scope="module")
def conversations():
    rng = random.Random(0)
    return [sample_conversation(rng) for _ in range(5000)]


def text_of(conversation):
    return "".join(piece for piece, _ in conversation.segments())


def test_no_sentence_of_a_papers_prompt_occurs(conversations):
    sentences = [
        line for p in PROMPTS.values() for line in (p.system, *vars(p.query or p).values()) if isinstance(line, str)
    ]
    assert any("Represent the given text in one word." in s for s in sentences)
    assert "represent the given text in one word" in PAPER_SENTENCES
    assert quotes_a_paper("x. Represent the given TEXT in one word.")
    assert not [text for c in conversations if quotes_a_paper(text := text_of(c))]


def test_no_instruction_of_the_benchmark_occurs(conversations):
    texts = "\n".join(map(text_of, conversations)).lower()
    for line in BENCHMARK_LINES:
        assert line.replace("{}", "").strip().lower() not in texts, line


def test_only_train_scenes(conversations):
    assert {c.scene.split for c in conversations if c.scene} == {"train"}
    rng = random.Random(1)
    validation = [sample_conversation(rng, "validation") for _ in range(200)]
    assert {c.scene.split for c in validation if c.scene} == {"validation"}


def test_a_turn_reads_like_a_prompt(conversations):
    """The chat format of pre-training is the one that prompts are rendered in."""
    for conversation in conversations[:500]:
        first, is_answer = next(s for s in conversation.segments() if s[0].endswith(ASSISTANT_HEADER))
        user = conversation.turns[0][0]
        assert not is_answer
        assert first == render("none", "query", user, conversation.scene is not None)


def test_only_the_assistants_words_are_learned(conversations):
    for conversation in conversations[:500]:
        answers = [piece for piece, is_answer in conversation.segments() if is_answer]
        assert answers == [f"{answer}<|im_end|>" for _, answer in conversation.turns]


def test_one_word_means_one_word(conversations):
    """What follows a request for one word is one word, but for places and a few answers with several."""
    asked = [c for c in conversations if re.search("(in|using|by|with) (one|a single) word", text_of(c))]
    assert len(asked) > 500
    words = [len(c.turns[0][1].split()) for c in asked]
    assert max(words) <= 4
    assert sum(n == 1 for n in words) > 0.95 * len(words)


def test_bare_class_names_open_turns(conversations):
    bare = {c.turns[0][0].split("\n")[0] for c in conversations if c.scene is None}
    assert sum(name in bare for name in datasets.OBJECTS) > 40


def test_the_mixture_is_what_is_drawn(conversations):
    assert sum(share for _, share in corpus.MIXTURE) == pytest.approx(1)
    with_image = sum(c.scene is not None for c in conversations) / len(conversations)
    assert 0.4 < with_image < 0.7


@pytest.mark.parametrize("lesson", LESSONS)
def test_every_lesson_keeps_the_rules(lesson):
    rng = random.Random(lesson)
    drawn = [sample_conversation(rng, lesson=lesson) for _ in range(300)]
    assert sum(share for _, share in LESSONS[lesson].mixture) == pytest.approx(1)
    assert {c.scene.split for c in drawn if c.scene} <= {"train"}
    text = "\n".join(map(text_of, drawn)).lower()
    assert not quotes_a_paper(text)
    assert not [line for line in BENCHMARK_LINES if line.replace("{}", "").strip().lower() in text]
    only_few = sum({t.name for t in c.scene.things} <= set(FEW_OBJECTS) for c in drawn if c.scene)
    few, shown = LESSONS[lesson].few, sum(c.scene is not None for c in drawn)
    assert few - 0.15 <= only_few / max(1, shown) <= few + 0.15


def test_an_inventory_lists_everything_in_all_orders():
    scene = Scene("gray", (Thing(1, "sun", "red"), Thing(2, "cat", "blue")))
    rng = random.Random(0)
    lines = {}
    for _ in range(100):
        turns = inventory(rng, scene).turns
        lines |= {user.split("\n")[-1]: set(answer.split("; ")) for user, answer in turns}
        assert len(turns) == 3
    assert len(lines) == 6
    assert lines["list every colour, place and object."] == {"red top right sun", "blue bottom left cat"}


def test_named_asks_about_objects_by_name():
    rng = random.Random(0)
    scene = Scene("gray", (Thing(1, "sun", "red"), Thing(2, "cat", "blue")))
    turns = [turn for _ in range(50) for turn in named(rng, scene).turns]
    for user, answer in turns:
        question = user.split("\n")[-1]
        assert answer in (("red", "top right") if "sun" in question else ("blue", "bottom left"))
