"""The embedder with gradients: what training back-propagates through.

Gives the same embeddings as `Embedder.encode`; items are tokenized once a step, and the images of a frozen vision
tower are run once a step, so that the gradient cache's two passes repeat neither.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import normalize

from g2e_lib.backbone.images import Prefetch
from g2e_lib.backbone.qwen2vl import encode_images, encode_prefix, hidden_states, prefix_length
from g2e_lib.data.items import Item
from g2e_lib.embedder import Embedder, Input, Tokens, shared_prefix
from g2e_lib.prompts import Role

MIN_FILL = 0.75  # rows run together while the shortest has at least this share of the longest one's own tokens
IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class _Picture:
    """An image of a batch: its grid of patches (1, 3), and its visual tokens if they are fixed, else its patches."""

    grid: Tensor
    features: Tensor | None
    patches: Tensor | None


@dataclass(frozen=True)
class Prepared:
    """An item ready for the model: one input, or two where the prompt embeds image and text apart."""

    tokens: tuple[Tokens, ...]
    pictures: tuple[_Picture | None, ...]


class Encoder(nn.Module):
    """A trainable view of an embedder.

    Args:
        embedder: its model, processor and prompt are used as they are; which weights train is the caller's choice.
        one_pass: run every chunk in one pass, however its lengths differ. Processes that share the model's weights
            must run it equally often, and how many passes are best depends on what is in the chunk.
    """

    def __init__(self, embedder: Embedder, one_pass: bool = False) -> None:
        super().__init__()
        self.embedder, self.model, self.one_pass = embedder, embedder.model, one_pass

    def prepare(self, items: Sequence[Item], role: Role) -> list[Prepared]:
        """Tokenize items and open their images, each image once.

        Args:
            items: of one batch.
            role: "query" or "target".

        Raises:
            ValueError: an item cannot be embedded; the message names it.
        """
        inputs, parts = self.embedder.inputs(items, role)
        tokens, pictures = self.embedder.tokenize(inputs), self._pictures(inputs)
        prepared: list[list[int]] = [[] for _ in items]
        for number, part in enumerate(parts):
            prepared[part].append(number)
        return [Prepared(tuple(tokens[i] for i in one), tuple(pictures[i] for i in one)) for one in prepared]

    @torch.no_grad()
    def _pictures(self, inputs: Sequence[Input]) -> list[_Picture | None]:
        visual = self.model.model.visual
        is_frozen = not any(p.requires_grad for p in visual.parameters())
        sources = list({one.identity[3]: one.source for one in inputs if one.source is not None}.items())
        known: dict[str, _Picture] = {}
        groups = [sources[start : start + IMAGES_AT_ONCE] for start in range(0, len(sources), IMAGES_AT_ONCE)]
        for group, opened in zip(groups, self._opened(groups), strict=True):
            names = [name for name, _ in group]
            pixels = {key: value.to(self.model.device) for key, value in opened.items()}
            grids, patches = pixels["image_grid_thw"], pixels["pixel_values"].to(visual.dtype)
            counts = grids.prod(1)
            merged = visual.config.spatial_merge_size**2
            features = encode_images(visual, patches, grids).split((counts // merged).tolist()) if is_frozen else None
            for i, (name, one) in enumerate(zip(names, patches.split(counts.tolist()), strict=True)):
                known[name] = _Picture(grids[i : i + 1], *((features[i], None) if is_frozen else (None, one)))
        return [known[one.identity[3]] if one.source is not None else None for one in inputs]

    def _opened(self, groups: list[list[tuple[str, Path | Image.Image]]]) -> Iterator[dict[str, Tensor]]:
        """Images as the model takes them, a group at a time; a GPU does not wait for one thread to open them all."""

        def prepare(number: int) -> dict[str, Tensor]:
            return self.embedder.pixels([source for _, source in groups[number]])

        threads = self.embedder.threads
        if not threads or len(groups) < 2:
            yield from map(prepare, range(len(groups)))
            return
        prefetch = Prefetch(prepare, range(len(groups)), threads, ahead=threads)
        try:
            for number in range(len(groups)):
                yield prefetch.get([number])[0]
        finally:
            prefetch.close()

    def forward(self, chunk: Sequence[Prepared]) -> Tensor:
        """Embed a chunk: (n, D) float32, unit rows, with a graph.

        Inputs of similar length run together, so that little padding is computed; the text that all begin with is
        run once (under dropout all rows then share its masks).
        """
        tokens = [one for item in chunk for one in item.tokens]
        pictures = [one for item in chunk for one in item.pictures]
        ids = [] if self.one_pass else shared_prefix([one.ids for one in tokens], self.model.config.image_token_id)
        prefix = encode_prefix(self.model, ids) if ids else None
        shared = prefix_length(prefix)
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i].ids), reverse=True)
        states, start, min_fill = [], 0, 0 if self.one_pass else MIN_FILL
        for end in range(1, len(order) + 1):
            length, longest = (len(tokens[order[min(i, len(order) - 1)]].ids) - shared for i in (end, start))
            if end == len(order) or length < min_fill * longest:
                group = order[start:end]
                states.append(self._states([tokens[i] for i in group], [pictures[i] for i in group], prefix))
                start = end
        back = torch.empty(len(order), dtype=torch.long)
        back[order] = torch.arange(len(order))
        embeddings = normalize(torch.cat(states)[back.to(self.model.device)].float(), dim=1)
        if len(tokens) == len(chunk):
            return embeddings
        counts = [len(item.tokens) for item in chunk]
        return normalize(torch.stack([part.sum(0) for part in embeddings.split(counts)]), dim=1)

    def _states(self, tokens: list[Tokens], pictures: list[_Picture | None], prefix: list | None) -> Tensor:
        """States at the last tokens of inputs that are run together, (n, D)."""
        width, pad = max(len(one.ids) for one in tokens), self.embedder.processor.tokenizer.pad_token_id
        ids = torch.tensor([one.ids + [pad] * (width - len(one.ids)) for one in tokens], device=self.model.device)
        shown = [one for one in pictures if one is not None]
        images = {"image_grid_thw": torch.cat([one.grid for one in shown])} if shown else {}
        for name, field in (("image_features", "features"), ("pixel_values", "patches")):
            if shown and getattr(shown[0], field) is not None:
                images[name] = torch.cat([getattr(one, field) for one in shown])
        flat = not self.embedder.images.has_markers
        hidden = hidden_states(self.model, ids, prefix=prefix, has_flat_positions=flat, **images)
        last = torch.tensor([len(one.ids) - 1 for one in tokens], device=ids.device) - prefix_length(prefix)
        return hidden[torch.arange(len(tokens), device=ids.device), last]
