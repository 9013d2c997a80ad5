"""From items to what a Qwen2-VL reads: token ids with one placeholder per visual token, and images as patches."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from g2e_lib.backbone.images import ImageRule, get_image_rule
from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.data.images import image_size, open_image
from g2e_lib.data.items import Item

logger = logging.getLogger(__name__)

Source = Path | Image.Image
Embeddable = str | Image.Image | Mapping[str, Any] | Item


@dataclass(frozen=True)
class Input:
    """One input of the model: the rendered text in three parts (prompts.render_parts), the image not yet opened."""

    before: str
    text: str
    after: str
    source: Source | None

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Equal where inputs are."""
        return self.before, self.text, self.after, self.image_identity

    @property
    def image_identity(self) -> str:
        """Equal where images are; "" without one."""
        if self.source is None:
            return ""
        if isinstance(self.source, Path):
            return str(self.source)
        content = hashlib.sha256(self.source.tobytes()).hexdigest()
        return f"{self.source.mode} {self.source.size} {content}"


@dataclass(frozen=True)
class Tokens:
    """A tokenized input: ids (L,), and its image's rows and columns of visual tokens; () without one."""

    ids: list[int]
    grid: tuple[int, ...]


def as_item(value: Embeddable) -> tuple[str, Source | None]:
    """Bring any accepted form of an item into (text, image): a text, a PIL image, an Item, or a mapping of the two.

    Raises:
        ValueError: an empty item, an unknown key, or a value of a type that cannot be embedded.
    """
    if isinstance(value, str):
        text, image = value, None
    elif isinstance(value, Image.Image):
        text, image = "", value
    elif isinstance(value, Item):
        text, image = value.text, value.image
    elif isinstance(value, Mapping):
        if unknown := set(value) - {"text", "image"}:
            raise ValueError(f"an item has the unknown key {sorted(unknown)[0]!r}: use 'text' and 'image'")
        text, image = value.get("text") or "", value.get("image")
        image = Path(image) if isinstance(image, str) else image
    else:
        raise ValueError(f"cannot embed a {type(value).__name__}: give a string, a PIL image or a dict of both")
    if not isinstance(text, str) or not isinstance(image, Path | Image.Image | None):
        raise ValueError("an item's 'text' must be a string, and its 'image' a PIL image or a path")
    if not text.strip() and image is None:
        raise ValueError("an item has neither text nor image: an empty text cannot be embedded, drop it or fill it")
    return text, image


def join_images(images: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Several images as the model takes them, one after the other; nothing for none."""
    return {name: torch.cat([image[name] for image in images]) for name in images[0]} if images else {}


class InputReader:
    """Turns inputs into tensors.

    `max_length` is the most tokens of an input: longer texts are cut at their end (never the prompt or an image).
    """

    def __init__(self, processor: G2EProcessor, images: str | ImageRule, max_length: int) -> None:
        self.processor, self.images, self.max_length = processor, get_image_rule(images), max_length

    @property
    def pixel_bounds(self) -> tuple[int, int]:
        """The least and the most pixels of an image."""
        size = self.processor.image_processor.size
        return self.images.min_pixels or size["shortest_edge"], self.images.max_pixels or size["longest_edge"]

    def pixels(self, sources: Sequence[Source]) -> dict[str, Tensor]:
        """Images as the model takes them; ValueError, which names the image, where one cannot be used.

        Returns `pixel_values` (patches, patch dimension) float32 and `image_grid_thw` (images, 3) int64; {} for none.
        """
        if not sources:
            return {}
        images = [self.images.resize(open_image(source)) for source in sources]
        size = dict(zip(("shortest_edge", "longest_edge"), self.pixel_bounds, strict=True))
        return dict(self.processor.image_processor(images=images, size=size, return_tensors="pt"))

    def tokenize(self, inputs: Sequence[Input]) -> list[Tokens]:
        """Token ids with one placeholder per visual token, cut to max_length."""
        grids = [self._grid(given.source) if given.source is not None else () for given in inputs]
        befores = [self._expand(given.before, grid) for given, grid in zip(inputs, grids, strict=True)]
        texts = [before + given.text + given.after for before, given in zip(befores, inputs, strict=True)]
        encoded = self.processor.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        too_long = [i for i, ids in enumerate(encoded) if len(ids) > self.max_length]
        for i in too_long:
            encoded[i] = self._cut(befores[i], inputs[i].text, inputs[i].after)
        if too_long:
            logger.warning("cut the text of %d of %d inputs to %d tokens", len(too_long), len(inputs), self.max_length)
        return [Tokens(ids, grid) for ids, grid in zip(encoded, grids, strict=True)]

    def _expand(self, before: str, grid: tuple[int, ...]) -> str:
        placeholder = self.processor.image_token
        return before.replace(placeholder, placeholder * (grid[0] * grid[1])) if grid else before

    def _cut(self, before: str, text: str, after: str) -> list[int]:
        """Shorten an input's own text, from its end, until the whole input fits; the prompt and the image stay."""
        while True:
            whole = before + text + after
            encoding = self.processor.tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True)
            excess = len(encoding.input_ids) - self.max_length
            if excess <= 0:
                return encoding.input_ids
            end = len(before) + len(text)
            starts = [start for start, stop in encoding.offset_mapping if len(before) <= start and stop <= end]
            if not text:
                raise ValueError(
                    f"max_length {self.max_length} has no room for the prompt and an image of "
                    f"{before.count(self.processor.image_token)} visual tokens: raise max_length, or show images "
                    f"smaller (an ImageRule with max_pixels below {self.pixel_bounds[1]})"
                )
            text = text[: starts[-excess] - len(before)].rstrip() if excess < len(starts) else ""

    def _grid(self, source: Source) -> tuple[int, int]:
        """Rows and columns of visual tokens an image becomes."""
        processor = self.processor.image_processor
        width, height = self.images.size(*image_size(source))
        unit = processor.patch_size * processor.merge_size
        rows, columns = smart_resize(height, width, unit, *self.pixel_bounds)
        return rows // unit, columns // unit
