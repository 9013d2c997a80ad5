"""Turn a generative Qwen2-VL into an embedder, with and without gradients: read, pool the last token, normalise.

The embedding of an item is the hidden state of the last layer, after the final norm, at the last token of the chat
(the end of the assistant header), scaled to unit length (Gen2Embed, section 3). Vocabulary logits and the states of
other layers are never computed for it. `Embedder.encode` and training's `Encoder` run the same forward pass; they
differ in which inputs run together.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize
from tqdm.auto import tqdm
from transformers import Qwen2VLForConditionalGeneration
from transformers import __version__ as transformers_version

from g2e_lib.backbone.checkpoint import default_device as default_device
from g2e_lib.backbone.checkpoint import default_dtype as default_dtype
from g2e_lib.backbone.checkpoint import load_checkpoint
from g2e_lib.backbone.images import ImageRule, Prefetch, default_threads
from g2e_lib.backbone.inputs import Embeddable, Input, InputReader, Tokens, as_item, join_images
from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import encode_images, encode_prefix, group_size, last_states, prefix_length, shared_prefix
from g2e_lib.data.items import Item, item_digests, unique
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import Store
from g2e_lib.prompts import VISION_BLOCK, Prompt, Role, get_prompt, render_parts

logger = logging.getLogger(__name__)


def _normalise(states: np.ndarray) -> np.ndarray:
    return states / np.linalg.norm(states, axis=1, keepdims=True)


class Embedder(InputReader):
    """A Qwen2-VL checkpoint, used as it is, with a prompt, as an encoder of texts, images and both.

    Args:
        prompt: a name in prompts.PROMPTS, or a Prompt.
        max_length: most tokens of an input, see InputReader.
        tokens_per_batch: padded tokens in one forward pass; bounds memory, does not change results. Halved by itself
            when a GPU runs out of memory.
        images: how they are shown, see InputReader.
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
        super().__init__(processor, images, max_length)
        self.model, self.prompt, self.identity = model.eval(), get_prompt(prompt), identity
        self.tokens_per_batch = tokens_per_batch
        self.threads = default_threads(model.device.type) if threads < 0 else threads
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
        model, processor, identity = load_checkpoint(id_or_path, adapter, device, dtype, attention)
        return cls(model, processor, prompt, identity=identity, **settings)

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
        names = ("max_length", "tokens_per_batch", "images", "threads", "identity")
        return Embedder(self.model, self.processor, prompt, **{name: getattr(self, name) for name in names})

    def key(self, role: Role) -> dict[str, Any]:
        """What determines an embedding, for cache keys; a prompt enters by what it says to this role, not by name."""
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
        inputs, item_of = self.inputs(items, role)
        embeddings = _normalise(self._encode_inputs(inputs, show_progress))
        if len(inputs) == len(items):
            return embeddings
        summed = np.zeros((len(items), self.dimension), dtype=np.float32)
        np.add.at(summed, item_of, embeddings)
        return _normalise(summed)

    def states(self, items: Sequence[Embeddable], role: Role = "query") -> np.ndarray:
        """What `encode` scales to unit length, (N, D) float32: states from which the model would write its next word.

        Raises:
            ValueError: an item cannot be embedded, or is embedded in two parts, which have no common state.
        """
        return self._encode_inputs(self._whole_inputs(items, role), show_progress=False)

    def token_ids(self, item: Embeddable, role: Role = "query") -> list[int]:
        """What the model reads for one item, raising as `states`; the state at the last id becomes the embedding."""
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
        inputs, item_of = [], []
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
                item_of.append(index)
        return inputs, np.array(item_of, dtype=np.int64)

    def _encode_inputs(self, inputs: list[Input], show_progress: bool) -> np.ndarray:
        """Last states, (N, D) float32; identical inputs are run once."""
        identities = [given.identity for given in inputs]
        distinct, row_of = unique(identities)
        first = dict(zip(reversed(identities), reversed(inputs), strict=True))
        inputs = [first[identity] for identity in distinct]
        tokens = self.tokenize(inputs)
        order = sorted(range(len(inputs)), key=lambda i: (len(tokens[i].ids), tokens[i].grid), reverse=True)
        states = np.empty((len(inputs), self.dimension), dtype=np.float32)
        with_image = [i for i in order if inputs[i].source is not None]
        with (
            Prefetch(lambda i: self.pixels([inputs[i].source]), with_image, self.threads) as prefetch,
            tqdm(total=len(inputs), desc="encode", unit="item", disable=not show_progress) as bar,
            torch.inference_mode(),
        ):

            def images(group: list[int]) -> dict[str, Tensor]:
                return join_images(prefetch.get([i for i in group if inputs[i].source is not None]))

            for group, found in self.run(tokens, order, images):
                states[group] = found.float().cpu().numpy()
                bar.update(len(group))
        return states[row_of]

    def run(
        self,
        tokens: Sequence[Tokens],
        order: list[int],
        images: Callable[[list[int]], dict[str, Tensor]],
        *,
        min_fill: float = 0.0,
        is_bounded: bool = True,
        shares_prefix: bool = True,
    ) -> Iterator[tuple[list[int], Tensor]]:
        """The forward pass of embedding and of training, group by group.

        Args:
            tokens: of all inputs.
            order: their numbers, longest first.
            images: from a group's numbers to its images, as hidden_states takes them.
            min_fill: see group_size.
            is_bounded: keep to tokens_per_batch, and make groups smaller when memory runs out.
            shares_prefix: run the text that all inputs begin with only once (dropout then drops the same of it in all).

        Yields:
            A group's numbers, and its states at the last tokens, (group, D) in the model's dtype.
        """
        ids = shared_prefix([one.ids for one in tokens], self.model.config.image_token_id) if shares_prefix else []
        prefix = encode_prefix(self.model, ids) if ids else None
        lengths = [len(one.ids) - prefix_length(prefix) for one in tokens]
        pad, is_flat = self.processor.tokenizer.pad_token_id, not self.images.has_markers
        while order:
            budget = self.tokens_per_batch if is_bounded else None
            group = order[: group_size((lengths[i] for i in order), budget, min_fill)]
            shown = {name: value.to(self.device) for name, value in images(group).items()}
            try:
                states = last_states(self.model, [tokens[i].ids for i in group], pad, shown, prefix, is_flat)
            except torch.OutOfMemoryError:
                if not is_bounded:
                    raise
                self._halve_budget(len(group), lengths[group[0]])
                continue  # with the same inputs; what is done is kept
            yield group, states
            order = order[len(group) :]

    def _halve_budget(self, count: int, length: int) -> None:
        """Make groups smaller after one of `count` inputs of `length` tokens each did not fit into memory."""
        if count == 1:
            raise RuntimeError(
                f"out of memory with a single input of {length} tokens: lower max_length, show images smaller "
                "(an ImageRule with max_pixels), or use a device with more memory"
            ) from None
        self.tokens_per_batch = max(1, min(self.tokens_per_batch, count * length) // 2)
        torch.cuda.empty_cache()
        logger.warning("out of memory: going on with tokens_per_batch %d", self.tokens_per_batch)


# --- with gradients ------------------------------------------------------------------------------------------------

MIN_FILL = 0.75  # rows run together while the shortest has at least this share of the longest one's own tokens
IMAGES_AT_ONCE = 16

# An item ready for the model: one input, or two where the prompt embeds image and text apart; each with its image as
# hidden_states takes it, {} without one.
Prepared = list[tuple[Tokens, dict[str, Tensor]]]


class Encoder(nn.Module):
    """A trainable view of an embedder, which gives the same embeddings.

    Items are tokenized once a step, and the images of a frozen vision tower are run once a step, so that the gradient
    cache's two passes repeat neither.

    Args:
        embedder: its model, processor and prompt are used as they are; which weights train is the caller's choice.
        one_pass: run every chunk in one pass, however its lengths differ. Processes that share the model's weights
            must run it equally often, and how many passes are best depends on what is in the chunk.
    """

    def __init__(self, embedder: Embedder, one_pass: bool = False) -> None:
        super().__init__()
        self.embedder, self.model, self.one_pass = embedder, embedder.model, one_pass

    def prepare(self, items: Sequence[Item], role: Role) -> list[Prepared]:
        """Tokenize a batch's items and open their images, each image once.

        Raises:
            ValueError: an item cannot be embedded; the message names it.
        """
        inputs, item_of = self.embedder.inputs(items, role)
        prepared: list[Prepared] = [[] for _ in items]
        for item, *part in zip(item_of, self.embedder.tokenize(inputs), self._images(inputs), strict=True):
            prepared[item].append(tuple(part))
        return prepared

    def _images(self, inputs: Sequence[Input]) -> list[dict[str, Tensor]]:
        """The image of each input, {} without one; on a GPU's machine threads open the next while it works."""
        names = [given.image_identity for given in inputs]
        sources = {name: given.source for name, given in zip(names, inputs, strict=True) if name}
        groups = [list(sources)[start : start + IMAGES_AT_ONCE] for start in range(0, len(sources), IMAGES_AT_ONCE)]
        known: dict[str, dict[str, Tensor]] = {"": {}}
        threads = self.embedder.threads
        with Prefetch(
            lambda number: self.embedder.pixels([sources[name] for name in groups[number]]),
            range(len(groups)),
            threads if len(groups) > 1 else 0,
            ahead=threads,
        ) as prefetch:
            for number, group in enumerate(groups):
                (pixels,) = prefetch.get([number])
                known |= zip(group, self._apart(pixels), strict=True)
        return [known[name] for name in names]

    @torch.no_grad()
    def _apart(self, pixels: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Each image by itself: its grid, and its visual tokens if they are fixed, else its patches."""
        visual = self.model.model.visual
        grids = pixels["image_grid_thw"].to(self.model.device)
        parts = pixels["pixel_values"].to(self.model.device).to(visual.dtype)
        name, sizes = "pixel_values", grids.prod(1)
        if not any(weight.requires_grad for weight in visual.parameters()):
            parts = encode_images(visual, parts, grids)
            name, sizes = "image_features", sizes // visual.config.spatial_merge_size**2
        return [{"image_grid_thw": grids[i : i + 1], name: part} for i, part in enumerate(parts.split(sizes.tolist()))]

    def forward(self, chunk: Sequence[Prepared]) -> Tensor:
        """Embed a chunk: (n, D) float32, unit rows, with a graph; inputs of like length run together, to pad less."""
        tokens, shown = zip(*(part for item in chunk for part in item), strict=True)
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i].ids), reverse=True)
        groups = self.embedder.run(
            tokens,
            order,
            lambda group: join_images([shown[i] for i in group if shown[i]]),
            min_fill=0 if self.one_pass else MIN_FILL,
            is_bounded=False,
            shares_prefix=not self.one_pass,
        )
        states = torch.cat([found for _, found in groups])
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        embeddings = normalize(states[back.to(self.model.device)].float(), dim=1)
        if len(tokens) == len(chunk):
            return embeddings
        parts = embeddings.split([len(item) for item in chunk])
        return normalize(torch.stack([part.sum(0) for part in parts]), dim=1)


# --- through the store ---------------------------------------------------------------------------------------------

SHARD = 4096  # items encoded between two writes to the store: what a killed run loses at most


def embedding_shards(
    embedder: Embedder, items: Sequence[Item], role: str, digests: Mapping[Item, str]
) -> list[tuple[dict[str, Any], Sequence[Item]]]:
    """The parts in which `encode_cached` embeds items, each with its key in the store."""
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
    """Embed items without repetitions through the store, in shards, so that a killed run resumes at the last one.

    `digests` are those of the items' content, where known already (see `item_digests`).

    Returns:
        (N, D) float32, unit rows, in the order of `items`.
    """
    digests = item_digests(items) if digests is None else digests
    parts = [
        store.array(key, lambda s=shard: embedder.encode(s, role, show_progress=show_progress))
        for key, shard in embedding_shards(embedder, items, role, digests)
    ]
    return np.concatenate(parts) if parts else np.empty((0, embedder.dimension), dtype=np.float32)
