"""Look at the generator behind the embedder: what it reads, what it answers, what it would say next."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from g2e_lib.data.images import open_image
from g2e_lib.data.items import Item, item_digests
from g2e_lib.embedder import Embeddable, Embedder, as_item
from g2e_lib.evaluation.statistics import estimate
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import Store
from g2e_lib.prompts import TURN_END, Role, render


def prompt_tokens(embedder: Embedder, item: Embeddable, role: Role = "query") -> list[dict[str, Any]]:
    """The tokens a model reads for one item, one record a line of the chat.

    `tokens` are strings (an image's visual tokens one, with their number), and `is_pooled` says whether the line ends
    with the token whose state becomes the embedding.
    """
    tokenizer, image_token = embedder.processor.tokenizer, embedder.processor.image_token
    lines: list[list[str]] = [[]]
    for token_id in embedder.token_ids(item, role):
        token = tokenizer.decode([token_id])
        if token == image_token and lines[-1] and lines[-1][-1].startswith(image_token):
            count = int(lines[-1][-1].partition(" x ")[2] or 1) + 1
            lines[-1][-1] = f"{image_token} x {count}"
            continue
        lines[-1].append(token.replace("\n", "\\n"))
        if "\n" in token:
            lines.append([])
    lines = [line for line in lines if line]
    return [{"tokens": line, "is_pooled": number == len(lines)} for number, line in enumerate(lines, 1)]


@torch.inference_mode()
def reply(embedder: Embedder, item: Embeddable, role: Role = "query", max_new_tokens: int = 80) -> str:
    """What the model answers to an item under the embedder's prompt, by greedy decoding."""
    text, source = as_item(item)
    images = [open_image(source)] if source is not None else None
    chat = render(embedder.prompt, role, text, images is not None)
    inputs = embedder.processor(text=[chat], images=images, return_tensors="pt").to(embedder.device)
    output = embedder.model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens)
    answer = embedder.processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :])
    return answer.partition(TURN_END)[0]


@torch.inference_mode()
def next_word_probabilities(embedder: Embedder, items: Sequence[Embeddable], role: Role = "query") -> np.ndarray:
    """The distribution of the token that would follow the pooled one: (N, vocabulary) float32, rows sum to 1."""
    head = embedder.model.lm_head
    states = torch.from_numpy(embedder.states(items, role)).to(head.weight.device, head.weight.dtype)
    return head(states).float().softmax(-1).cpu().numpy()


def compare_next_words(
    embedder: Embedder, prompts: Sequence[str], pairs: Sequence[tuple[Item, Item]], store: Store, top_k: int = 5
) -> list[dict[str, Any]]:
    """The likeliest words the model would say next after an image and after its caption, under each prompt.

    Where the words agree, embeddings can: they are the states words are read from. Returns one record a prompt:
    `image` and `text` with [word, probability] of the first pair, and `overlap`, the probability mass both
    distributions share (sum of the smaller ones), in percent over all pairs.
    """
    digests = item_digests(item for pair in pairs for item in pair)
    shared_key = {"pairs": [digests[item] for pair in pairs for item in pair], "top_k": top_k}
    shared_key["code"] = code_fingerprint("evaluation.generate")
    records = []
    for name in prompts:
        prompted = embedder.with_prompt(name)
        key = {**prompted.key("query"), **shared_key, "next words": name}
        records.append(store.json(key, lambda one=prompted: _next_words(one, pairs, top_k)))
    return records


def _next_words(embedder: Embedder, pairs: Sequence[tuple[Item, Item]], top_k: int) -> dict[str, Any]:
    image, text = (next_word_probabilities(embedder, side) for side in zip(*pairs, strict=True))
    shared = np.minimum(image, text).sum(1)
    words = {"image": _top_words(embedder, image[0], top_k), "text": _top_words(embedder, text[0], top_k)}
    return {"prompt": embedder.prompt.name, **words, "overlap": vars(estimate({"pairs": shared}))}


def _top_words(embedder: Embedder, probabilities: np.ndarray, top_k: int) -> list[list[Any]]:
    """The likeliest words; tokens that differ only in a space count together."""
    words: dict[str, float] = {}
    for token in np.argsort(-probabilities, kind="stable")[: 10 * top_k]:
        word = embedder.processor.tokenizer.decode([token]).strip()
        words[word] = words.get(word, 0.0) + float(probabilities[token])
    top = sorted(words.items(), key=lambda pair: -pair[1])[:top_k]
    return [[word, round(probability, 4)] for word, probability in top]


def replies(embedder: Embedder, questions: Mapping[str, Embeddable]) -> list[dict[str, str]]:
    """The model's answers to several items, as records `asked`, `answered`; keys name the items."""
    return [{"asked": name, "answered": reply(embedder, item)} for name, item in questions.items()]
