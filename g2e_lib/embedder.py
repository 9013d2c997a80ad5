"""Turn a generative Qwen2-VL into an embedder: load, collate, pool the last token, normalise.

The embedding of an item is the hidden state of the last layer, after the final norm, at the last token of the chat
(the end of the assistant header), scaled to unit length (Gen2Embed, section 3). Vocabulary logits and the states of
other layers are never computed for it.
"""

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration
from transformers import __version__ as transformers_version
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from g2e_lib.checkpoint import (
    apply_adapter,
    checkpoint_fingerprint,
    checkpoint_folder,
    load_model,
    load_processor,
)
from g2e_lib.config import code_fingerprint
from g2e_lib.data import Item, missing_image, unique
from g2e_lib.processor import G2EProcessor
from g2e_lib.prompts import Prompt, Role, get_prompt, render_parts
from g2e_lib.qwen2vl import Prefix, encode_prefix, hidden_states, prefix_length

logger = logging.getLogger(__name__)

MIN_SIDE = 4  # pixels; a thinner image has no content, and resizing it invents one
MAX_ASPECT_RATIO = 200  # Qwen2-VL's own limit
MIN_SHARING, MIN_PREFIX = 8, 8  # inputs and tokens; below, running a common beginning once does not pay
# Source files that decide what an embedding is; their content is part of every cache key.
CODE = ("embedder.py", "processor.py", "prompts.py", "qwen2vl.py")

Embeddable = str | Image.Image | Mapping[str, Any] | Item


@dataclass(frozen=True)
class Input:
    """One input of the model: the rendered text in three parts (see render_parts), the image not yet opened."""

    before: str
    text: str
    after: str
    source: Path | Image.Image | None

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """Equal where inputs are."""
        return self.before, self.text, self.after, _image_identity(self.source)


@dataclass
class Tokens:
    """A tokenized input: ids (L,), the grid of its image in visual tokens (rows, columns), or None."""

    ids: list[int]
    grid: tuple[int, int] | None


def as_item(value: Embeddable) -> tuple[str, Path | Image.Image | None]:
    """Bring any accepted form of an item into (text, image).

    Args:
        value: a text, a PIL image, an Item, or {"text": ..., "image": PIL image or path} with either key or both.

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


def open_image(source: Path | Image.Image) -> Image.Image:
    """Load an image fully, as RGB.

    Raises:
        ValueError: the file is missing, is no image, is cut off, or has sides Qwen2-VL cannot take.
    """
    name = source if isinstance(source, Path) else f"an image of {source.width}x{source.height} pixels"
    try:
        image = Image.open(source) if isinstance(source, Path) else source
        image = image.convert("RGB")
    except FileNotFoundError:
        raise missing_image(source) from None
    except UnidentifiedImageError:
        raise ValueError(f"image {name} is not an image file PIL can read: replace or remove it") from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"image {name} is damaged ({error}): download it again or remove it") from None
    short, long = sorted(image.size)
    if short < MIN_SIDE or long > MAX_ASPECT_RATIO * short:
        raise ValueError(
            f"image {name} is {image.width}x{image.height} pixels, but both sides must have at least {MIN_SIDE} "
            f"pixels and the longer one at most {MAX_ASPECT_RATIO} times the shorter: pad or remove it"
        )
    return image


def _image_size(source: Path | Image.Image) -> tuple[int, int]:
    """Width and height from the file's header; problems are left to open_image, which names them."""
    if isinstance(source, Image.Image):
        return source.size
    try:
        with Image.open(source) as image:
            return image.size
    except (OSError, SyntaxError, ValueError):
        return open_image(source).size


def _image_identity(source: Path | Image.Image | None) -> str:
    if source is None:
        return ""
    if isinstance(source, Path):
        return str(source)
    content = hashlib.sha256(source.tobytes()).hexdigest()
    return f"{source.mode} {source.size} {content}"


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """The precision of a device: float32 on a CPU, bfloat16 elsewhere."""
    return "float32" if device == "cpu" else "bfloat16"


def shared_prefix(ids: Sequence[list[int]], image_token_id: int) -> list[int]:
    """The text tokens that all inputs begin with, where running them once pays; else none."""
    if len(ids) < MIN_SHARING:
        return []
    common = os.path.commonprefix(list(ids))[: min(map(len, ids)) - 1]  # works on lists of anything
    common = common[: common.index(image_token_id)] if image_token_id in common else common
    return common if len(common) >= MIN_PREFIX else []


def _normalise(states: np.ndarray) -> np.ndarray:
    return states / np.linalg.norm(states, axis=1, keepdims=True)


class Embedder:
    """A Qwen2-VL checkpoint with a prompt, as an encoder of texts, images and both.

    Args:
        model: the generative model; used as it is.
        processor: its tokenizer and image processor.
        prompt: a name in prompts.PROMPTS, or a Prompt.
        max_length: most tokens an input may have; longer texts are cut at their end (never the prompt or an image).
        tokens_per_batch: padded tokens in one forward pass; bounds memory, does not change results.
        identity: identifies weights, tokenizer and adapter in cache keys.
    """

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        processor: G2EProcessor,
        prompt: str | Prompt = "hierarchical",
        *,
        max_length: int = 2048,
        tokens_per_batch: int = 4096,
        identity: str = "unknown",
    ) -> None:
        self.model, self.processor, self.prompt = model.eval(), processor, get_prompt(prompt)
        self.max_length, self.tokens_per_batch = max_length, tokens_per_batch
        self.identity = identity
        self.model.requires_grad_(requires_grad=False)

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str | Path,
        *,
        prompt: str | Prompt = "hierarchical",
        adapter: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        **settings: Any,  # noqa: ANN401
    ) -> "Embedder":
        """Load a Qwen2-VL checkpoint, real or tiny.

        Args:
            id_or_path: a local folder, a hub id, or "glyphworld-base", the model inside this package.
            prompt: a name in prompts.PROMPTS, or a Prompt.
            adapter: folder or hub id of a PEFT adapter to apply.
            device: "auto" takes a GPU if there is one.
            dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU, float32 on a CPU.
            settings: further arguments of Embedder.

        Raises:
            ValueError: the checkpoint is missing or incomplete, or is not a Qwen2-VL; the adapter does not fit it.
        """
        prompt = get_prompt(prompt)  # before the expensive part
        device = default_device() if device == "auto" else device
        dtype = default_dtype(device) if dtype == "auto" else dtype
        folder = checkpoint_folder(id_or_path)
        processor, model = load_processor(folder), load_model(folder, dtype)
        identity = checkpoint_fingerprint(folder)
        if adapter is not None:
            adapter_folder = checkpoint_folder(adapter)
            apply_adapter(model, adapter_folder)
            identity = f"{identity}+{checkpoint_fingerprint(adapter_folder)}"
        return cls(model.to(device), processor, prompt, identity=identity, **settings)

    @property
    def dimension(self) -> int:
        """D, the size of an embedding."""
        return self.model.config.text_config.hidden_size

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def with_prompt(self, prompt: str | Prompt) -> "Embedder":
        """The same model under another prompt; weights are shared."""
        return Embedder(
            self.model,
            self.processor,
            prompt,
            max_length=self.max_length,
            tokens_per_batch=self.tokens_per_batch,
            identity=self.identity,
        )

    def key(self, role: Role) -> dict[str, Any]:
        """Everything about this embedder that determines an embedding, for cache keys.

        Prompts enter by what they say to this role, not by name: where two prompts say the same, the work is shared.
        """
        image_processor = self.processor.image_processor
        return {
            "checkpoint": self.identity,
            "system": self.prompt.system,
            "instruction": str(self.prompt.instruction(role)),
            "fusion": self.prompt.fusion,
            "image_size": dict(image_processor.size),
            "max_length": self.max_length,
            "dtype": str(self.model.dtype),
            "code": code_fingerprint(CODE),
            "transformers": transformers_version,
        }

    def encode(self, items: Sequence[Embeddable], role: Role = "query", *, show_progress: bool = False) -> np.ndarray:
        """Embed items.

        Args:
            items: texts, PIL images, Items, or {"text": ..., "image": PIL image or path}, in any mixture.
            role: "query" or "target"; decides which lines of the prompt are used.
            show_progress: draw a progress bar with items per second.

        Returns:
            (N, D) float32, rows of unit L2 norm, in the order of `items`.

        Raises:
            ValueError: an item cannot be embedded; the message names it.
        """
        inputs, parts = self.inputs(items, role)
        embeddings = _normalise(self._encode_inputs(inputs, show_progress))
        if len(inputs) == len(items):
            return embeddings
        summed = np.zeros((len(items), self.dimension), dtype=np.float32)
        np.add.at(summed, parts, embeddings)
        return _normalise(summed)

    def states(self, items: Sequence[Embeddable], role: Role = "query") -> np.ndarray:
        """What `encode` scales to unit length: the hidden states from which the model would write its next word.

        Args:
            items: as in `encode`.
            role: as in `encode`.

        Returns:
            (N, D) float32, in the order of `items`.

        Raises:
            ValueError: an item cannot be embedded, or is embedded in two parts, which have no common state.
        """
        return self._encode_inputs(self._whole_inputs(items, role), show_progress=False)

    def token_ids(self, item: Embeddable, role: Role = "query") -> list[int]:
        """What the model reads for one item; the state at the last id becomes the embedding.

        Raises:
            ValueError: the item cannot be embedded, or is embedded in two parts.
        """
        return self.tokenize(self._whole_inputs([item], role))[0].ids

    def _whole_inputs(self, items: Sequence[Embeddable], role: Role) -> list[Input]:
        """The model inputs of items that are each embedded in one pass."""
        inputs, _ = self.inputs(items, role)
        if len(inputs) != len(items):
            raise ValueError(f"prompt {self.prompt.name!r} embeds image and text apart: give items with one of the two")
        return inputs

    def inputs(self, items: Sequence[Embeddable], role: Role) -> tuple[list[Input], np.ndarray]:
        """The model inputs of all items, and for each the item it belongs to (two of a kind where fusion is a sum)."""
        if isinstance(items, str | Mapping | Image.Image):
            raise ValueError("encode takes a list of items: put a single item into brackets")
        inputs, parts = [], []
        for index, value in enumerate(items):
            try:
                text, image = as_item(value)
            except ValueError as error:
                raise ValueError(f"item {index}: {error}") from None
            is_split = self.prompt.fusion == "sum" and text.strip() and image is not None
            for part_text, part_image in ((text, None), ("", image)) if is_split else ((text, image),):
                rendered = render_parts(self.prompt, role, part_text, part_image is not None)
                inputs.append(Input(*rendered, part_image))
                parts.append(index)
        return inputs, np.array(parts, dtype=np.int64)

    def _encode_inputs(self, inputs: list[Input], show_progress: bool) -> np.ndarray:
        """Last states, (N, D) float32; identical inputs are run once."""
        distinct, rows = unique([one.identity for one in inputs])
        first = dict(zip(reversed(rows.tolist()), reversed(inputs), strict=True))
        inputs = [first[i] for i in range(len(distinct))]
        tokens = self.tokenize(inputs)
        order = sorted(range(len(inputs)), key=lambda i: (len(tokens[i].ids), tokens[i].grid or ()), reverse=True)
        output = np.empty((len(inputs), self.dimension), dtype=np.float32)
        prefix = self._prefix(tokens)
        shared = prefix_length(prefix)
        with tqdm(total=len(inputs), desc="encode", unit="item", disable=not show_progress) as bar:
            while order:
                count = max(1, self.tokens_per_batch // (len(tokens[order[0]].ids) - shared))
                batch, order = order[:count], order[count:]
                output[batch] = self._forward([inputs[i] for i in batch], [tokens[i] for i in batch], prefix)
                bar.update(len(batch))
        return output[rows]

    def tokenize(self, inputs: list[Input]) -> list[Tokens]:
        """Token ids with one placeholder per visual token, cut to max_length."""
        grids = [self._grid(one.source) if one.source is not None else None for one in inputs]
        befores = [self._expand(one.before, grid) for one, grid in zip(inputs, grids, strict=True)]
        texts = [before + one.text + one.after for before, one in zip(befores, inputs, strict=True)]
        encoded = self.processor.tokenizer(texts, add_special_tokens=False).input_ids if texts else []
        too_long = [i for i, ids in enumerate(encoded) if len(ids) > self.max_length]
        for i in too_long:
            encoded[i] = self._cut(befores[i], inputs[i].text, inputs[i].after)
        if too_long:
            logger.warning("cut the text of %d of %d inputs to %d tokens", len(too_long), len(inputs), self.max_length)
        return [Tokens(ids, grid) for ids, grid in zip(encoded, grids, strict=True)]

    def _expand(self, before: str, grid: tuple[int, int] | None) -> str:
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
                longest_edge = self.processor.image_processor.size["longest_edge"]
                raise ValueError(
                    f"max_length {self.max_length} has no room for the prompt and an image of "
                    f"{before.count(self.processor.image_token)} visual tokens: raise max_length, or lower the image "
                    f"processor's longest_edge (now {longest_edge} pixels)"
                )
            text = text[: starts[-excess] - len(before)].rstrip() if excess < len(starts) else ""

    def _grid(self, source: Path | Image.Image) -> tuple[int, int]:
        """Rows and columns of visual tokens an image becomes."""
        ip = self.processor.image_processor
        width, height = _image_size(source)
        if min(width, height) < MIN_SIDE or max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            open_image(source)  # raises, naming the image
        unit = ip.patch_size * ip.merge_size
        rows, columns = smart_resize(height, width, unit, ip.size["shortest_edge"], ip.size["longest_edge"])
        return rows // unit, columns // unit

    @torch.inference_mode()
    def _prefix(self, tokens: list[Tokens]) -> Prefix | None:
        """Keys and values of the text that all inputs begin with, such as the system message; run only once."""
        ids = shared_prefix([one.ids for one in tokens], self.model.config.image_token_id)
        return encode_prefix(self.model, ids) if ids else None

    @torch.inference_mode()
    def _forward(self, inputs: list[Input], tokens: list[Tokens], prefix: Prefix | None) -> np.ndarray:
        """The states at the last token of one batch, (B, D) float32."""
        images = [open_image(one.source) for one in inputs if one.source is not None]
        pixels = self.processor.image_processor(images=images, return_tensors="pt") if images else {}
        width, pad = max(len(one.ids) for one in tokens), self.processor.tokenizer.pad_token_id
        ids = torch.tensor([one.ids + [pad] * (width - len(one.ids)) for one in tokens])
        shared = prefix_length(prefix)
        last = torch.tensor([len(one.ids) - 1 - shared for one in tokens])
        inputs_on_device = {key: value.to(self.device) for key, value in pixels.items()}
        hidden = hidden_states(self.model, ids.to(self.device), **inputs_on_device, prefix=prefix)
        return hidden[torch.arange(len(tokens)), last].float().cpu().numpy()
