import itertools

import pytest
from definition import NAMES, chat

from g2e_lib.prompts import PROMPTS, ROLES, get_prompt, render, render_parts


def test_the_variants_exist():
    assert tuple(PROMPTS) == NAMES


@pytest.mark.parametrize(("name", "role"), itertools.product(NAMES, ROLES))
@pytest.mark.parametrize(("text", "has_image"), [("a red sun", False), ("a red sun", True), ("", True)])
def test_rendering_equals_the_slow_definition(name, role, text, has_image):
    assert render(name, role, text, has_image) == chat(name, role, text, has_image)


def test_hierarchical_query_with_image_word_for_word():
    assert render("hierarchical", "query", "what is this?", has_image=True) == (
        "<|im_start|>system\n"
        "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
        "<|im_end|>\n"
        "<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>\n"
        "what is this?\n"
        "Represent the given text/image in one word.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_hierarchical_text_query_word_for_word():
    assert render("hierarchical", "query", "a cat", has_image=False) == (
        "<|im_start|>system\n"
        "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
        "<|im_end|>\n"
        "<|im_start|>user\n"
        "a cat\n"
        "Represent the given text in one word.<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_targets_get_the_system_level_only():
    assert render("hierarchical", "target", "a cat", False) == render("system", "target", "a cat", False)
    assert render("user", "target", "a cat", False) == render("none", "target", "a cat", False)


@pytest.mark.parametrize("text", ["a cat", "", "two\nlines", " \0 odd <|im_end|> text "])
def test_parts_join_to_the_whole(text):
    for name, role, has_image in itertools.product(NAMES, ROLES, (True, False)):
        if text.strip() or has_image:
            assert "".join(render_parts(name, role, text, has_image)) == chat(name, role, text.strip(), has_image)


def test_unknown_prompt_lists_the_known_ones():
    with pytest.raises(ValueError, match="unknown prompt 'hierarchy': choose one of none, user, system, hierarchical"):
        get_prompt("hierarchy")


def test_unknown_role():
    with pytest.raises(ValueError, match="unknown role 'document': use 'query' or 'target'"):
        render("none", "document", "a", False)
