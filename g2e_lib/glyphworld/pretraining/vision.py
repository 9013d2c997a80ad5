"""The first phase of pre-training: the vision tower learns to name what is in every cell it sees."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import encode_images
from g2e_lib.glyphworld.pretraining.batches import conversation_image
from g2e_lib.glyphworld.pretraining.corpus import Conversation
from g2e_lib.glyphworld.pretraining.optimizer import Optimizer, average_gradients, rank, world_size
from g2e_lib.glyphworld.pretraining.recipe import Recipe
from g2e_lib.glyphworld.world.scenes import Scene, sample_scene
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, OBJECTS, PLACES

# What is named in a cell, attribute by attribute; the last word but for the background says "none".
CLASSES = ((*OBJECTS, "nothing"), (*COLOURS, "nothing"), (*BACKGROUNDS,), (*PLACES, "nothing"))
SIZES = [len(names) for names in CLASSES]


class CellHead(nn.Module):
    """Names what is in a cell from its visual token: object (or none), colour (or none), background and place.

    Classes are scored against the language model's own, fixed embeddings of their words, so a token points to the
    words that describe its cell, and the language model can look for a word in a picture as it does in a text.
    """

    sharpness = 16.0

    def __init__(self, words: Tensor) -> None:
        """Take one embedding for each class of each of `CLASSES`: (classes, D)."""
        super().__init__()
        self.register_buffer("words", words)
        self.bias = nn.Parameter(torch.zeros(len(words)))

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and the share of cells with everything right; tokens (cells, D), labels (cells, 4) int64."""
        logits = (self.sharpness * tokens @ self.words.T + self.bias).split(SIZES, dim=-1)
        loss = sum(cross_entropy(one, label) for one, label in zip(logits, labels.T, strict=True))
        right = torch.stack([one.argmax(-1) == label for one, label in zip(logits, labels.T, strict=True)])
        return loss, right.all(0).float().mean()


def class_words(embeddings: Tensor, tokenizer: PreTrainedTokenizerFast) -> Tensor:
    """The mean embedding of the tokens of each class's name, with and without a space before: (classes, D)."""
    names = [name for names in CLASSES for name in names]
    ids = [[*tokenizer(name).input_ids, *tokenizer(f" {name}").input_ids] for name in names]
    return torch.stack([embeddings[one].mean(0) for one in ids])


def cell_labels(scene: Scene, place: int | None = None) -> list[tuple[int, int, int, int]]:
    """Object, colour, background and place of the four cells, or of the crop at `place`; the last of each is none."""
    background = list(BACKGROUNDS).index(scene.background)
    cells = [(len(OBJECTS), len(COLOURS), background, corner) for corner in range(len(PLACES))]
    for t in scene.things:
        cells[t.place] = (OBJECTS.index(t.name), list(COLOURS).index(t.colour), background, t.place)
    return cells if place is None else [(*cells[place][:3], len(PLACES))]


def pretrain_vision(model: PreTrainedModel, processor: G2EProcessor, recipe: Recipe) -> Iterator[dict]:
    """Run the first phase in place, yielding a log record a hundred steps."""
    visual = model.model.visual
    torch.manual_seed(recipe.seed)
    head = CellHead(class_words(model.get_input_embeddings().weight.detach(), processor.tokenizer))
    parameters = dict(visual.named_parameters()) | {f"head.{n}": p for n, p in head.named_parameters()}
    optimizer = Optimizer(parameters, recipe.weight_decay)
    visual.train()
    for step in tqdm(range(recipe.vision_steps), desc="vision tower", unit="step", disable=rank() > 0):
        rng = random.Random(f"vision {recipe.seed} {step}")
        drawn = [_drawn(rng) for _ in range(recipe.vision_images)][rank() :: world_size()]
        pixels = processor.image_processor(images=[conversation_image(one) for one in drawn], return_tensors="pt")
        labels = torch.tensor([cell for one in drawn for cell in cell_labels(one.scene, one.place)])
        loss, accuracy = head(encode_images(visual, **pixels), labels)
        loss.backward()
        average_gradients(parameters.values())
        remaining = 1 - step / recipe.vision_steps
        optimizer.step(recipe.vision_learning_rate * min(1.0, (step + 1) / 50, remaining * 2), recipe.max_gradient_norm)
        if (step + 1) % 100 == 0:
            yield {"phase": "vision", "step": step + 1, "loss": loss.item(), "cells_right": accuracy.item()}
    _standardize(visual, pixels)


def _drawn(rng: random.Random) -> Conversation:
    """A picture, in one of five cases a crop of it, without any words."""
    scene = sample_scene(rng, "train")
    place = rng.choice(scene.things).place if rng.random() < 0.2 else None
    return Conversation((), scene=scene, place=place, view=rng.getrandbits(32))


@torch.no_grad()
def _standardize(visual: nn.Module, pixels: dict) -> None:
    """Shift and scale the tower's last layer so that its tokens have mean 0 and length 1, about that of words."""
    tokens, last = encode_images(visual, **pixels), visual.merger.mlp[-1]
    mean = tokens.mean(0)
    length = (tokens - mean).norm(dim=1).mean()
    last.bias.copy_((last.bias - mean) / length)
    last.weight /= length
