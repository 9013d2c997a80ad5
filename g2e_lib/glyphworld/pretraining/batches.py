"""From conversations to padded tensors, and from those to the logits that carry loss."""

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from transformers import PreTrainedModel

from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import hidden_states
from g2e_lib.glyphworld.pretraining.corpus import Conversation
from g2e_lib.glyphworld.world.render import render

IGNORED = -100  # label of tokens that carry no loss
LENGTH_STEP = 8  # tokens


def conversation_image(conversation: Conversation) -> Image.Image | None:
    """The picture of a conversation (cropped to one cell if it says so), or None."""
    scene = conversation.scene
    return render(scene, conversation.view, place=conversation.place) if scene else None


def tokenize(conversation: Conversation, processor: G2EProcessor, visual_tokens: int) -> tuple[list[int], list[int]]:
    """Ids and labels, IGNORED but on what the assistant says; 0 `visual_tokens` where there is no picture."""
    ids, labels = [], []
    for text, is_answer in conversation.segments():
        expanded = text.replace(processor.image_token, processor.image_token * visual_tokens)
        piece = processor.tokenizer(expanded, add_special_tokens=False).input_ids
        ids += piece
        labels += piece if is_answer else [IGNORED] * len(piece)
    return ids, labels


def batches(conversations: list[Conversation], processor: G2EProcessor, chunk_tokens: int) -> Iterator[dict]:
    """Cut into padded batches of like length, a multiple of LENGTH_STEP so that few shapes occur, of `chunk_tokens`."""
    merge = processor.image_processor.merge_size**2
    images = [conversation_image(c) for c in conversations]
    shown = [image for image in images if image is not None]
    pixels = processor.image_processor(images=shown, return_tensors="pt") if shown else {}
    grids = iter(pixels.get("image_grid_thw", ()))
    patches = iter(pixels["pixel_values"].split(pixels["image_grid_thw"].prod(1).tolist()) if shown else ())
    items = []
    for conversation, image in zip(conversations, images, strict=True):
        grid, patch = (None, None) if image is None else (next(grids), next(patches))
        ids, labels = tokenize(conversation, processor, 0 if grid is None else int(grid.prod()) // merge)
        items.append((ids, labels, grid, patch))
    items.sort(key=lambda item: len(item[0]), reverse=True)
    while items:
        width = -(-len(items[0][0]) // LENGTH_STEP) * LENGTH_STEP
        rows = max(1, chunk_tokens // width)
        chunk, items = items[:rows], items[rows:]
        yield _pad(chunk, width, processor.tokenizer.pad_token_id)


def _pad(items: list[tuple], width: int, pad_token_id: int) -> dict:
    input_ids = torch.full((len(items), width), pad_token_id)
    labels = torch.full((len(items), width), IGNORED)
    for row, (ids, label, _, _) in enumerate(items):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(label)
    batch = {"input_ids": input_ids, "labels": labels}
    if grids := [grid for _, _, grid, _ in items if grid is not None]:
        batch["image_grid_thw"] = torch.stack(grids)
        batch["pixel_values"] = torch.cat([patch for *_, patch in items if patch is not None])
    return batch


def forward(model: PreTrainedModel, batch: dict) -> tuple[Tensor, Tensor]:
    """Logits (labelled, vocabulary) float32 of the tokens that carry loss, and those tokens (labelled,) int64."""
    hidden = hidden_states(model, batch["input_ids"], batch.get("pixel_values"), batch.get("image_grid_thw"))
    labels = batch["labels"][:, 1:]
    row, column = (labels != IGNORED).nonzero(as_tuple=True)
    return model.lm_head(hidden[row, column]).float(), labels[row, column]
