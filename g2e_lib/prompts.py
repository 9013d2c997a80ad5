"""The hierarchical embedding prompt and its rivals, as data, and how an item becomes the text a model reads.

Gen2Embed (arXiv 2508.00955) embeds an item by asking a generative model for one word about it, at two levels: a
system message for queries and targets alike, and a line after the query's own text. The embedding is the hidden
state from which the model would have written that word. Needs no torch.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["query", "target"]
ROLES: tuple[Role, ...] = ("query", "target")

# Level 1 (system) and level 2 (user) of the hierarchical prompt, as the paper prints them.
SYSTEM_PROMPT = (
    "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
)
REPRESENT_IMAGE = "Represent the given text/image in one word."
REPRESENT_TEXT = "Represent the given text in one word."
# The user message of E5-V and of UniME's evaluation.
SUMMARY_OF_IMAGE = "Summary above image in one word:"
SUMMARY_OF_TEXT = "Summary above sentence in one word:"
SUMMARY_OF_SENTENCES = "Summarize the above sentences in one word:"  # while UniME distils its text teacher

VISION_BLOCK = "<|vision_start|><|image_pad|><|vision_end|>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
ASSISTANT_HEADER = f"{TURN_START}assistant\n"


@dataclass(frozen=True)
class Instruction:
    """A line appended after an item's own content: one wording for items with an image, one for text alone."""

    with_image: str
    text_only: str


@dataclass(frozen=True)
class Prompt:
    """One way of asking for an embedding.

    Attributes:
        name: the key in PROMPTS.
        system: the system message of both roles; None means there is no system turn at all.
        query: the line after a query's own content, or None.
        target: likewise for targets.
        fusion: an item with both image and text is embedded in one pass ("joint"), or as the re-normalised sum of
            its image's and its text's embedding ("sum", UniME's rule).
    """

    name: str
    system: str | None = None
    query: Instruction | None = None
    target: Instruction | None = None
    fusion: Literal["joint", "sum"] = "joint"

    def instruction(self, role: Role) -> Instruction | None:
        """The line appended for `role`; ValueError if that is neither "query" nor "target"."""
        if role not in ROLES:
            raise ValueError(f"unknown role {role!r}: use 'query' or 'target'")
        return self.query if role == "query" else self.target


_REPRESENT = Instruction(REPRESENT_IMAGE, REPRESENT_TEXT)
_SUMMARY = Instruction(SUMMARY_OF_IMAGE, SUMMARY_OF_TEXT)
_DISTIL = Instruction(SUMMARY_OF_IMAGE, SUMMARY_OF_SENTENCES)

PROMPTS = {
    prompt.name: prompt
    for prompt in (
        Prompt("none"),
        Prompt("user", query=_REPRESENT),
        Prompt("system", system=SYSTEM_PROMPT),
        Prompt("hierarchical", system=SYSTEM_PROMPT, query=_REPRESENT),
        Prompt("hierarchical_both", system=SYSTEM_PROMPT, query=_REPRESENT, target=_REPRESENT),
        Prompt("e5v", query=_SUMMARY, target=_SUMMARY),
        Prompt("unime", query=_SUMMARY, target=_SUMMARY, fusion="sum"),
        Prompt("unime_distillation", query=_DISTIL, target=_DISTIL, fusion="sum"),
    )
}


def get_prompt(prompt: str | Prompt) -> Prompt:
    """Look a prompt up by name, a ValueError where it is unknown; a Prompt is returned as it is."""
    if isinstance(prompt, Prompt):
        return prompt
    if prompt not in PROMPTS:
        raise ValueError(f"unknown prompt {prompt!r}: choose one of {', '.join(PROMPTS)}")
    return PROMPTS[prompt]


def turn(speaker: str, content: str) -> str:
    r"""One finished turn in Qwen2-VL's chat format.

    >>> turn("user", "hello")
    '<|im_start|>user\nhello<|im_end|>\n'
    """
    return f"{TURN_START}{speaker}\n{content}{TURN_END}\n"


def user_content(text: str, has_image: bool, instruction: str | None = None) -> str:
    r"""What stands inside a user turn: the image, the text and the instruction, each on a line of its own.

    >>> user_content("which colour?", True)
    '<|vision_start|><|image_pad|><|vision_end|>\nwhich colour?'
    """
    lines = [VISION_BLOCK if has_image else "", text.strip(), instruction or ""]
    return "\n".join(line for line in lines if line)


def render_parts(prompt: str | Prompt, role: Role, text: str, has_image: bool) -> tuple[str, str, str]:
    r"""What `render` joins: everything before the item's own text, that text, and everything after it.

    >>> render_parts("none", "target", " a red sun ", has_image=False)
    ('<|im_start|>user\n', 'a red sun', '<|im_end|>\n<|im_start|>assistant\n')
    """
    prompt, text = get_prompt(prompt), text.strip()
    instruction = prompt.instruction(role)
    line = instruction and (instruction.with_image if has_image else instruction.text_only)
    system = turn("system", prompt.system) if prompt.system else ""
    before, after = (system + turn("user", user_content("\0", has_image, line)) + ASSISTANT_HEADER).split("\0")
    return (before, text, after) if text else (before.removesuffix("\n") if has_image else before, "", after)


def render(prompt: str | Prompt, role: Role, text: str, has_image: bool) -> str:
    """The full text a model reads for one item (`text` "" for an image alone), whose last token is pooled.

    >>> print(render("user", "query", "a red sun", has_image=False))
    <|im_start|>user
    a red sun
    Represent the given text in one word.<|im_end|>
    <|im_start|>assistant
    <BLANKLINE>
    """
    return "".join(render_parts(prompt, role, text, has_image))
