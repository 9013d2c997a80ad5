"""The modality gap: how far images and their captions lie apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from g2e_lib.data.items import EvalRow, Item
from g2e_lib.embedder import Embedder, encode_cached
from g2e_lib.project.bootstrap import BOOTSTRAP_SAMPLES, Estimate, bounds
from g2e_lib.project.store import Store


def image_text_pairs(rows: Sequence[EvalRow], count: int) -> list[tuple[Item, Item]]:
    """Images and bare captions from an image-to-text dataset's first rows; ValueError where it is none."""
    pairs = [(Item("", row.query.image), row.candidates[0]) for row in rows[:count]]
    if any(image.image is None or caption.image is not None for image, caption in pairs):
        raise ValueError("these rows are not image-to-text: choose a dataset such as CaptionI2T or MSCOCO_i2t")
    return pairs


def modality_panels(
    embedder: Embedder, prompts: Sequence[str], pairs: Sequence[tuple[Item, Item]], store: Store
) -> dict[str, dict[str, Any]]:
    """The modality gap under several prompts (not the embedder's own), with a picture of it.

    Both sides are embedded as queries, where every prompt has its say at every level. Returns for each prompt `gap`
    (see modality_gap) and (N, 2) lists `image`, `text`: their two principal components.
    """
    images, texts = (list(side) for side in zip(*pairs, strict=True))
    panels = {}
    for name in prompts:
        prompted = embedder.with_prompt(name)
        image, text = (encode_cached(prompted, side, "query", store) for side in (images, texts))
        points = project(np.concatenate((image, text))).round(4).tolist()
        panels[name] = {"gap": modality_gap(image, text), "image": points[: len(image)], "text": points[len(image) :]}
    return panels


def modality_gap(image_embeddings: np.ndarray, text_embeddings: np.ndarray, seed: int = 0) -> dict[str, dict[str, Any]]:
    """How far images and their texts, (N, D) float32 unit rows, lie apart, with a bootstrap over the pairs.

    Returns estimates, not in percent: `centroid_distance`, the Euclidean distance of the two means, and
    `paired_cosine`, the mean cosine of an image and its own text.
    """
    n = len(image_embeddings)
    difference = image_embeddings - text_embeddings  # the distance of the means is the length of its mean
    cosine = (image_embeddings * text_embeddings).sum(1)
    rows = np.random.default_rng(seed).integers(0, n, size=(BOOTSTRAP_SAMPLES, n))
    share = np.stack([np.bincount(sample, minlength=n) for sample in rows]) / n  # (samples, N), rows sum to 1
    samples = {"centroid_distance": np.linalg.norm(share @ difference, axis=1), "paired_cosine": share @ cosine}
    values = {"centroid_distance": np.linalg.norm(difference.mean(0)), "paired_cosine": cosine.mean()}
    gap = {}
    for name, value in values.items():
        low, high = bounds(samples[name])
        gap[name] = vars(Estimate(*(round(float(x), 4) for x in (value, low, high)), n))
    return gap


def project(embeddings: np.ndarray) -> np.ndarray:
    """The first two principal components: (N, 2) float32, signs fixed so that a rerun draws the same picture."""
    centred = embeddings - embeddings.mean(0)
    _, _, components = np.linalg.svd(centred.astype(np.float64), full_matrices=False)
    components = components[:2] * np.sign(components[:2][np.arange(2), np.abs(components[:2]).argmax(1)])[:, None]
    return (centred @ components.T).astype(np.float32)
