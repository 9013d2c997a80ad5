"""A second, slow definition of prompts and pooling, written from the papers and from nothing in g2e_lib."""

import numpy as np
import torch

SYSTEM = "Given an image, summarize the provided image in one word. Given only text, describe the text in one word."
WITH_IMAGE, TEXT_ONLY = "Represent the given text/image in one word.", "Represent the given text in one word."
SUMMARY_IMAGE, SUMMARY_TEXT = "Summary above image in one word:", "Summary above sentence in one word:"
SUMMARY_SENTENCES = "Summarize the above sentences in one word:"
NAMES = ("none", "user", "system", "hierarchical", "hierarchical_both", "e5v", "unime", "unime_distillation")


def chat(name, role, text, has_image):
    """What the model reads, put together the long way."""
    out = ""
    if name in ("system", "hierarchical", "hierarchical_both"):
        out += "<|im_start|>system\n" + SYSTEM + "<|im_end|>\n"
    lines = []
    if has_image:
        lines.append("<|vision_start|><|image_pad|><|vision_end|>")
    if text:
        lines.append(text)
    asks_query = name in ("user", "hierarchical", "hierarchical_both") and role == "query"
    if asks_query or (name == "hierarchical_both" and role == "target"):
        lines.append(WITH_IMAGE if has_image else TEXT_ONLY)
    if name in ("e5v", "unime", "unime_distillation"):
        summary = SUMMARY_SENTENCES if name == "unime_distillation" else SUMMARY_TEXT
        lines.append(SUMMARY_IMAGE if has_image else summary)
    out += "<|im_start|>user\n" + "\n".join(lines) + "<|im_end|>\n"
    return out + "<|im_start|>assistant\n"


@torch.no_grad()
def embed(model, processor, name, role, text, image):
    """One item through the stock model and processor: (D,) float32."""
    if name in ("unime", "unime_distillation") and text and image is not None:
        total = embed(model, processor, name, role, text, None) + embed(model, processor, name, role, "", image)
        return total / np.sqrt((total**2).sum())
    inputs = processor(
        text=[chat(name, role, text, image is not None)], images=None if image is None else [image], return_tensors="pt"
    )
    states = model.model(**inputs).last_hidden_state[0]
    last = int(inputs["attention_mask"][0].nonzero().max())
    vector = states[last].float().numpy()
    return vector / np.sqrt((vector**2).sum())
