"""Turn a generative Qwen2-VL into an embedder: load, collate, pool the last token, normalise.

The embedding of an item is the hidden state of the last layer, after the final norm, at the last token of the chat
(the end of the assistant header), scaled to unit length (Gen2Embed, section 3). Vocabulary logits and the states of
other layers are never computed for it.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration
from transformers import __version__ as transformers_version
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from g2e_lib.backbone.checkpoint import (
    apply_adapter,
    base_of_adapter,
    checkpoint_fingerprint,
    checkpoint_folder,
    default_attention,
    load_model,
    load_processor,
)
from g2e_lib.backbone.images import ImageRule, Prefetch, default_threads, get_image_rule
from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import Prefix, encode_prefix, hidden_states, prefix_length
from g2e_lib.data.images import image_size, open_image
from g2e_lib.data.items import Item, item_digests, unique
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import Store
from g2e_lib.prompts import VISION_BLOCK, Prompt, Role, get_prompt, render_parts

logger = logging.getLogger(__name__)

MIN_SHARING, MIN_PREFIX = 8, 8  # inputs and tokens; below, running a common beginning once does not pay

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
        tokens_per_batch: padded tokens in one forward pass; bounds memory, does not change results. Halved by itself
            when a GPU runs out of memory.
        images: how images are shown, a name in processor.IMAGE_RULES or an ImageRule.
        threads: that open images ahead; -1 takes none on a CPU and several on a GPU. Does not change results.
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
        images: str | ImageRule = "native",
        threads: int = -1,
        identity: str = "unknown",
    ) -> None:
        self.model, self.processor, self.prompt = model.eval(), processor, get_prompt(prompt)
        self.max_length, self.tokens_per_batch = max_length, tokens_per_batch
        self.images = get_image_rule(images)
        self.threads = default_threads(model.device.type) if threads < 0 else threads
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
        attention: str = "auto",
        **settings: Any,  # noqa: ANN401
    ) -> "Embedder":
        """Load a Qwen2-VL checkpoint, real or tiny.

        Args:
            id_or_path: a local folder, a hub id ("org/name", or "org/name@revision"), or "glyphworld-base", the model
                inside this package. Of an adapter the base model is found by the name it gives.
            prompt: a name in prompts.PROMPTS, or a Prompt.
            adapter: folder or hub id of a PEFT adapter to apply.
            device: "auto" takes a GPU if there is one.
            dtype: "float32", "bfloat16", or "auto": bfloat16 on a GPU, float32 on a CPU.
            attention: "sdpa", "flash_attention_2", or "auto": the latter where it is installed and can be used.
            settings: further arguments of Embedder.

        Raises:
            ValueError: the checkpoint is missing or incomplete, or is not a Qwen2-VL; the adapter does not fit it.
        """
        prompt = get_prompt(prompt)  # before the expensive part
        device = default_device() if device == "auto" else device
        dtype = default_dtype(device) if dtype == "auto" else dtype
        folder = checkpoint_folder(id_or_path)
        if adapter is None and (base := base_of_adapter(folder)):
            folder, adapter = checkpoint_folder(base), folder
        attention = default_attention(device, dtype) if attention == "auto" else attention
        processor, model = load_processor(folder), load_model(folder, dtype, attention)
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

    @property
    def pixel_bounds(self) -> tuple[int, int]:
        """The least and the most pixels of an image."""
        size = self.processor.image_processor.size
        return self.images.min_pixels or size["shortest_edge"], self.images.max_pixels or size["longest_edge"]

    def with_prompt(self, prompt: str | Prompt) -> "Embedder":
        """The same model under another prompt; weights are shared."""
        return Embedder(
            self.model,
            self.processor,
            prompt,
            max_length=self.max_length,
            tokens_per_batch=self.tokens_per_batch,
            images=self.images,
            threads=self.threads,
            identity=self.identity,
        )

    def key(self, role: Role) -> dict[str, Any]:
        """Everything about this embedder that determines an embedding, for cache keys.

        Prompts enter by what they say to this role, not by name: where two prompts say the same, the work is shared.
        """
        return {
            "checkpoint": self.identity,
            "system": self.prompt.system,
            "instruction": str(self.prompt.instruction(role)),
            "fusion": self.prompt.fusion,
            "images": {**vars(self.images), "pixels": self.pixel_bounds},
            "max_length": self.max_length,
            "dtype": str(self.model.dtype),
            "attention": self.model.config.text_config._attn_implementation,
            "code": code_fingerprint("embedder"),
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
                before, *rest = render_parts(self.prompt, role, part_text, part_image is not None)
                if not self.images.has_markers:
                    before = before.replace(VISION_BLOCK, self.processor.image_token)
                inputs.append(Input(before, *rest, part_image))
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
        with (
            self._prefetch(inputs, order) as images,
            tqdm(total=len(inputs), desc="encode", unit="item", disable=not show_progress) as bar,
        ):
            while order:
                count = max(1, self.tokens_per_batch // (len(tokens[order[0]].ids) - shared))
                batch = order[:count]
                pixels = images(batch)
                try:
                    output[batch] = self._forward([tokens[i] for i in batch], pixels, prefix)
                except torch.OutOfMemoryError:
                    self._halve_budget(len(batch), len(tokens[batch[0]].ids) - shared)
                    continue  # with the same inputs; what is done is kept
                order = order[count:]
                bar.update(len(batch))
        return output[rows]

    def _halve_budget(self, count: int, length: int) -> None:
        """Make batches smaller after one of `count` inputs of `length` tokens each did not fit into memory.

        Raises:
            RuntimeError: it was a single input already.
        """
        if count == 1:
            raise RuntimeError(
                f"out of memory with a single input of {length} tokens: lower max_length, show images smaller "
                "(an ImageRule with max_pixels), or use a device with more memory"
            ) from None
        self.tokens_per_batch = max(1, min(self.tokens_per_batch, count * length) // 2)
        torch.cuda.empty_cache()
        logger.warning("out of memory: going on with tokens_per_batch %d", self.tokens_per_batch)

    @contextmanager
    def _prefetch(self, inputs: list[Input], order: list[int]) -> Iterator[Callable[[list[int]], dict[str, Tensor]]]:
        """A function from a batch (the next inputs in `order`) to its images as the model takes them."""
        with_image = [i for i in order if inputs[i].source is not None]
        if not self.threads or not with_image:
            yield lambda batch: self.pixels([inputs[i].source for i in batch if inputs[i].source is not None])
            return
        prefetch = Prefetch(lambda i: self.pixels([inputs[i].source]), with_image, self.threads)

        def pixels(batch: list[int]) -> dict[str, Tensor]:
            parts = prefetch.get([i for i in batch if inputs[i].source is not None])
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]} if parts else {}

        try:
            yield pixels
        finally:
            prefetch.close()

    def pixels(self, sources: Sequence[Path | Image.Image]) -> dict[str, Tensor]:
        """Images as the model takes them.

        Args:
            sources: paths or PIL images.

        Returns:
            `pixel_values` (patches, patch dimension) float32 and `image_grid_thw` (images, 3) int64; nothing for none.

        Raises:
            ValueError: an image cannot be used; the message names it.
        """
        if not sources:
            return {}
        images = [self.images.resize(open_image(source)) for source in sources]
        shortest, longest = self.pixel_bounds
        size = {"shortest_edge": shortest, "longest_edge": longest}
        return dict(self.processor.image_processor(images=images, size=size, return_tensors="pt"))

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
                raise ValueError(
                    f"max_length {self.max_length} has no room for the prompt and an image of "
                    f"{before.count(self.processor.image_token)} visual tokens: raise max_length, or show images "
                    f"smaller (an ImageRule with max_pixels below {self.pixel_bounds[1]})"
                )
            text = text[: starts[-excess] - len(before)].rstrip() if excess < len(starts) else ""

    def _grid(self, source: Path | Image.Image) -> tuple[int, int]:
        """Rows and columns of visual tokens an image becomes."""
        ip = self.processor.image_processor
        width, height = self.images.size(*image_size(source))
        unit = ip.patch_size * ip.merge_size
        rows, columns = smart_resize(height, width, unit, *self.pixel_bounds)
        return rows // unit, columns // unit

    @torch.inference_mode()
    def _prefix(self, tokens: list[Tokens]) -> Prefix | None:
        """Keys and values of the text that all inputs begin with, such as the system message; run only once."""
        ids = shared_prefix([one.ids for one in tokens], self.model.config.image_token_id)
        return encode_prefix(self.model, ids) if ids else None

    @torch.inference_mode()
    def _forward(self, tokens: list[Tokens], pixels: dict[str, Tensor], prefix: Prefix | None) -> np.ndarray:
        """The states at the last token of one batch, (B, D) float32."""
        width, pad = max(len(one.ids) for one in tokens), self.processor.tokenizer.pad_token_id
        ids = torch.tensor([one.ids + [pad] * (width - len(one.ids)) for one in tokens])
        shared = prefix_length(prefix)
        last = torch.tensor([len(one.ids) - 1 - shared for one in tokens])
        on_device = {key: value.to(self.device) for key, value in pixels.items()}
        flat = not self.images.has_markers
        hidden = hidden_states(self.model, ids.to(self.device), **on_device, prefix=prefix, has_flat_positions=flat)
        return hidden[torch.arange(len(tokens)), last].float().cpu().numpy()


SHARD = 4096  # items encoded between two writes to the store: what a killed run loses at most


def embedding_shards(
    embedder: Embedder, items: Sequence[Item], role: str, digests: Mapping[Item, str]
) -> list[tuple[dict[str, Any], Sequence[Item]]]:
    """The parts in which `encode_cached` embeds items, each with its key in the store.

    Args:
        embedder: with its prompt.
        items: to embed.
        role: "query" or "target".
        digests: for each item a digest of its content.
    """
    shards = [items[start : start + SHARD] for start in range(0, len(items), SHARD)]
    return [({**embedder.key(role), "items": [digests[item] for item in shard]}, shard) for shard in shards]


def encode_cached(
    embedder: Embedder,
    items: Sequence[Item],
    role: str,
    store: Store,
    digests: Mapping[Item, str] | None = None,
    show_progress: bool = True,
) -> np.ndarray:
    """Embed items through the store, in shards, so that a killed run resumes at the last shard.

    Args:
        embedder: with its prompt.
        items: to embed, in any order, without repetitions.
        role: "query" or "target".
        store: keeps the shards.
        digests: for each item a digest of its content, if known already (see `item_digests`).
        show_progress: draw a progress bar for shards that are computed.

    Returns:
        (N, D) float32, unit rows, in the order of `items`.
    """
    digests = item_digests(items) if digests is None else digests
    parts = []
    for key, shard in embedding_shards(embedder, items, role, digests):
        parts.append(store.array(key, lambda s=shard: embedder.encode(s, role, show_progress=show_progress)))
    return np.concatenate(parts) if parts else np.empty((0, embedder.dimension), dtype=np.float32)
