"""How pre-training asks for one word, and the lines it puts around an item.

Papers' prompts and the benchmark's instructions are only paraphrased: to be understood, not strings once seen.
"""

import random

from g2e_lib.prompts import PROMPTS

VERBS = ("summarize", "describe", "name", "represent", "express", "label", "capture", "sum up", "condense")
IMAGE_NOUNS, TEXT_NOUNS = ("image", "picture", "image"), ("text", "sentence", "caption", "text", "phrase")
MIXED_NOUNS = ("image/text", "text or image", "text/image", "input", "content", "image or text")
QUALIFIERS = ("", "given ", "provided ", "above ", "following ", "shown ")
IN_ONE_WORD = ("in one word", "in one word", "with one word", "in a single word", "using one word", "by one word")
IMAGE_LEADS = ("Given an image,", "If there is an image,", "For an image,", "Given a picture,", "With an image,")
TEXT_LEADS = ("Given only text,", "If there is only text,", "For text,", "Given only a text,", "Given text,")
ONE_WORD_RULES = ("Answer in one word.", "Reply with a single word.", "Always answer in one word.", "Use one word.")
HELPFUL = "You are a helpful assistant."

# Lines around an item that say what it is used for; the embedding should be able to read past them.
ABOUT_IMAGE = (
    "Represent this picture for classification.",
    "Find a caption describing the shown picture.",
    "Classify the given picture.",
    "Represent the picture.",
    "Identify the object in the picture for classification.",
    "Find another picture that looks like the given one.",
    "Represent the portion of a picture.",
    "This is a cropped image of one object.",
    "Find the everyday picture that shows the same.",
)
ABOUT_TEXT = (
    "Find a picture that fits the caption: {}",
    "Find me a picture for the given sentence: {}",
    "Represent the caption: {}",
    "Here is a description: {}",
    "Search for an image that shows {}",
    "Retrieve the picture that matches this dialogue: {}",
    "Represent the answer: {}",
)
ABOUT_QUESTION = (
    "Answer the question about the image: {}",
    "Look at the given picture and answer the following question: {}",
    "Represent the picture with this question: {}",
    "Question: {}",
)
ABOUT_EDIT = (
    "Find the picture after the following change: {}",
    "Given the picture, find a similar one with this change: {}",
    "Change the picture: {}",
    "The described changes are: {}",
)
ABOUT_PART = (
    "Find the part of the image with {}",
    "Select the part of the picture that shows {}",
    "Crop the image to {}",
    "Select the portion that answers: where is {}?",
)
ABOUT_IMAGE_TEXT = ("Represent the picture with its caption: {}", "Find the image with this text: {}", "{}", "{}")


def _paper_sentences() -> frozenset[str]:
    lines = [p.system for p in PROMPTS.values() if p.system]
    for prompt in PROMPTS.values():
        for line in (prompt.query, prompt.target):
            lines += [line.with_image, line.text_only] if line else []
    sentences = [s for line in lines for s in line.replace(":", ".").split(".")]
    return frozenset(s.strip().lower() for s in sentences if s.strip())


PAPER_SENTENCES = _paper_sentences()


def quotes_a_paper(text: str) -> bool:
    """Tell whether `text` contains a sentence of a paper's prompt, whatever its capitals."""
    return any(sentence in text.lower() for sentence in PAPER_SENTENCES)


def _clause(rng: random.Random, nouns: tuple[str, ...]) -> str:
    return f"{rng.choice(VERBS)} the {rng.choice(QUALIFIERS)}{rng.choice(nouns)} {rng.choice(IN_ONE_WORD)}"


def one_word_system(rng: random.Random) -> str:
    """A system message that asks for one word, about images, about texts, or about both; never a paper's own."""
    while True:
        image = f"{rng.choice(IMAGE_LEADS)} {_clause(rng, IMAGE_NOUNS)}."
        text = f"{rng.choice(TEXT_LEADS)} {_clause(rng, TEXT_NOUNS)}."
        both = _clause(rng, MIXED_NOUNS).capitalize() + "."
        two_levels = f"{image} {text}", f"{image} {text}", f"{text} {image}"
        message = rng.choice((*two_levels, both, rng.choice(ONE_WORD_RULES)))
        if not quotes_a_paper(message):
            return message


def one_word_line(rng: random.Random, has_image: bool) -> str:
    """A closing line of a user turn that asks for one word; never a paper's own."""
    nouns = IMAGE_NOUNS + MIXED_NOUNS if has_image else TEXT_NOUNS + TEXT_NOUNS + MIXED_NOUNS
    while True:
        line = _clause(rng, nouns).capitalize()
        if rng.random() < 0.25:
            article = rng.choice(("of the ", "of the given ", "of the above ", "above "))
            line = f"Summary {article}{rng.choice(nouns)} {rng.choice(IN_ONE_WORD)}"
        line += rng.choice((".", ".", ":"))
        if not quotes_a_paper(line):
            return line


def ask_for_one_word(rng: random.Random, content: str, has_image: bool) -> tuple[str | None, str]:
    """Wrap content in a one-word request at the system level, the user level, or both: (system, user)."""
    level = rng.choice(("system", "system", "user", "both", "both"))
    system = one_word_system(rng) if level != "user" else rng.choice((None, None, None, HELPFUL))
    line = one_word_line(rng, has_image) if level != "system" else None
    return system, "\n".join(part for part in (content, line) if part)


def plain_system(rng: random.Random) -> str | None:
    """Mostly no system message, sometimes one that says nothing."""
    return HELPFUL if rng.random() < 0.2 else None


def wrap(rng: random.Random, templates: tuple[str, ...], text: str) -> str:
    """A text, mostly inside a line that says what it is used for."""
    return rng.choice(templates).format(text) if rng.random() < 0.6 else text
