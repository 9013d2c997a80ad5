"""What the released Qwen2-VL reads, token by token, against strings written out by hand from the paper."""

import pytest
from PIL import Image
from standin import build_model, released_tokenizer

from g2e_lib.embedder import Embedder

LEVEL_1 = "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
SYSTEM = f"<|im_start|>system\n{LEVEL_1}<|im_end|>\n"
IMAGE = "<|vision_start|><|image_pad|><|image_pad|><|image_pad|><|image_pad|><|vision_end|>"
USER, ANSWER = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
TEXT = "a red sun"
BOTH_2, TEXT_2 = "Represent the given text/image in one word.", "Represent the given text in one word."
BOTH_E5V, TEXT_E5V = "Summary above image in one word:", "Summary above sentence in one word:"

# prompt, role -> what is read for a text, an image, and both (None: two passes).
GOLDEN = {
    ("none", "query"): (f"{USER}{TEXT}{ANSWER}", f"{USER}{IMAGE}{ANSWER}", f"{USER}{IMAGE}\n{TEXT}{ANSWER}"),
    ("none", "target"): (f"{USER}{TEXT}{ANSWER}", f"{USER}{IMAGE}{ANSWER}", f"{USER}{IMAGE}\n{TEXT}{ANSWER}"),
    ("user", "query"): (
        f"{USER}{TEXT}\n{TEXT_2}{ANSWER}",
        f"{USER}{IMAGE}\n{BOTH_2}{ANSWER}",
        f"{USER}{IMAGE}\n{TEXT}\n{BOTH_2}{ANSWER}",
    ),
    ("user", "target"): (f"{USER}{TEXT}{ANSWER}", f"{USER}{IMAGE}{ANSWER}", f"{USER}{IMAGE}\n{TEXT}{ANSWER}"),
    ("system", "query"): (
        f"{SYSTEM}{USER}{TEXT}{ANSWER}",
        f"{SYSTEM}{USER}{IMAGE}{ANSWER}",
        f"{SYSTEM}{USER}{IMAGE}\n{TEXT}{ANSWER}",
    ),
    ("hierarchical", "query"): (
        f"{SYSTEM}{USER}{TEXT}\n{TEXT_2}{ANSWER}",
        f"{SYSTEM}{USER}{IMAGE}\n{BOTH_2}{ANSWER}",
        f"{SYSTEM}{USER}{IMAGE}\n{TEXT}\n{BOTH_2}{ANSWER}",
    ),
    ("hierarchical", "target"): (
        f"{SYSTEM}{USER}{TEXT}{ANSWER}",
        f"{SYSTEM}{USER}{IMAGE}{ANSWER}",
        f"{SYSTEM}{USER}{IMAGE}\n{TEXT}{ANSWER}",
    ),
    ("e5v", "query"): (
        f"{USER}{TEXT}\n{TEXT_E5V}{ANSWER}",
        f"{USER}{IMAGE}\n{BOTH_E5V}{ANSWER}",
        f"{USER}{IMAGE}\n{TEXT}\n{BOTH_E5V}{ANSWER}",
    ),
    ("unime", "target"): (f"{USER}{TEXT}\n{TEXT_E5V}{ANSWER}", f"{USER}{IMAGE}\n{BOTH_E5V}{ANSWER}", None),
}
GOLDEN[("system", "target")] = GOLDEN[("system", "query")]
GOLDEN[("hierarchical_both", "query")] = GOLDEN[("hierarchical_both", "target")] = GOLDEN[("hierarchical", "query")]
GOLDEN[("e5v", "target")] = GOLDEN[("e5v", "query")]
GOLDEN[("unime", "query")] = GOLDEN[("unime", "target")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, shared_tokenizer):
    folder = build_model(tmp_path_factory.mktemp("qwen"), shared_tokenizer)
    return Embedder.from_pretrained(folder, device="cpu", dtype="float32")


def forms():
    picture = Image.new("RGB", (56, 56), "red")
    return {"text": TEXT}, {"image": picture}, {"text": TEXT, "image": picture}


def test_added_tokens_have_the_published_ids(shared_tokenizer):
    tokenizer = released_tokenizer(shared_tokenizer)
    published = {
        "<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645, "<|vision_start|>": 151652,
        "<|vision_end|>": 151653, "<|vision_pad|>": 151654, "<|image_pad|>": 151655, "<|video_pad|>": 151656,
    }  # fmt: skip
    assert {name: tokenizer.convert_tokens_to_ids(name) for name in published} == published


@pytest.mark.parametrize(("prompt", "role"), sorted(GOLDEN))
def test_ids_of_every_prompt(tiny, prompt, role):
    embedder, tokenizer = tiny.with_prompt(prompt), tiny.processor.tokenizer
    for item, expected in zip(forms(), GOLDEN[prompt, role], strict=True):
        if expected is None:
            with pytest.raises(ValueError, match="embeds image and text apart"):
                embedder.token_ids(item, role)
            continue
        ids = embedder.token_ids(item, role)
        assert tokenizer.decode(ids) == expected
        assert ids == tokenizer(expected, add_special_tokens=False).input_ids


def test_ids_by_number(tiny):
    """The header's tokens as numbers, so that a tokenizer that decodes to the same text is not enough."""
    ids = tiny.with_prompt("none").token_ids({"image": forms()[1]["image"]})
    assert ids == [151644, 872, 198, 151652, 151655, 151655, 151655, 151655, 151653, 151645, 198, 151644, 77091, 198]
    assert tiny.token_ids(TEXT)[:3] == [151644, 8948, 198]


def test_without_markers(tiny):
    released = Embedder(tiny.model, tiny.processor, "hierarchical", images="released_train")
    ids = released.token_ids({"image": forms()[1]["image"]})
    assert (ids.count(151655), ids.count(151652), ids.count(151653)) == (256, 0, 0)  # 448 x 448 pixels, 28 each
