"""Pre-train the base model from scratch, on generative data only.

Two phases. First the vision tower learns, under plain supervision, to name object, colour and background in every
cell it sees (a linear head that is thrown away). Then the whole model learns next-token prediction on the
assistant's words of the conversations in corpus.py. Scenes come from the train split alone. Every batch is a
function of the seed and the step, so a killed run resumes exactly.
"""

import json
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from g2e_lib.qwen2vl import PACKED_ATTENTION, encode_images, hidden_states
from g2e_lib.glyphworld.corpus import Conversation, sample_conversation
from g2e_lib.glyphworld.model import SPECIAL_TOKENS, build_model, build_processor, build_tokenizer
from g2e_lib.glyphworld.render import CELL, render
from g2e_lib.glyphworld.scenes import Scene, sample_scene
from g2e_lib.glyphworld.vocabulary import BACKGROUNDS, COLOURS, OBJECTS
from g2e_lib.processor import G2EProcessor

IGNORED = -100  # label of tokens that carry no loss
FLOAT32_ATTENTION = "float32_sdpa"
LENGTH_STEP = 32  # tokens
TOKENIZER_SAMPLE = 20_000  # conversations the tokenizer is trained on


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a base model, besides the code.

    Attributes:
        vision_steps: optimisation steps of the first phase, with `vision_images` pictures each.
        steps: optimisation steps of the second phase, with `conversations` each.
        chunk_tokens: padded tokens in one forward pass; smaller fits the processor's cache, results are the same.
        learning_rate: of the second phase, peak; linear warm-up, constant, linear decay to zero.
        decay_steps: how many of the last steps decay.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    vision_steps: int = 800
    vision_images: int = 64
    vision_learning_rate: float = 1e-3
    steps: int = 6000
    conversations: int = 32
    chunk_tokens: int = 1024
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay_steps: int = 1500
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    save_every: int = 100


def conversation_image(conversation: Conversation) -> "torch.Tensor | None":
    """The picture of a conversation (cropped to one cell if it says so), or None."""
    if conversation.scene is None:
        return None
    image = render(conversation.scene, conversation.view)
    if conversation.place is None:
        return image
    row, column = divmod(conversation.place, 2)
    return image.crop((column * CELL, row * CELL, (column + 1) * CELL, (row + 1) * CELL))


def tokenize(conversation: Conversation, processor: G2EProcessor, visual_tokens: int) -> tuple[list[int], list[int]]:
    """Token ids and labels of a conversation; labels are IGNORED except on what the assistant says.

    Args:
        visual_tokens: how many placeholder tokens the picture takes; 0 without one.
    """
    ids, labels = [], []
    for text, is_answer in conversation.segments():
        expanded = text.replace(processor.image_token, processor.image_token * visual_tokens)
        piece = processor.tokenizer(expanded, add_special_tokens=False).input_ids
        ids += piece
        labels += piece if is_answer else [IGNORED] * len(piece)
    return ids, labels


def batches(conversations: list[Conversation], processor: G2EProcessor, chunk_tokens: int) -> Iterator[dict]:
    """Cut conversations into padded batches of similar length and about `chunk_tokens` tokens.

    Only a handful of shapes occur (lengths are multiples of LENGTH_STEP, rows fill the chunk, if need be with
    padding alone), because matrix kernels are compiled for every new shape.
    """
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
        yield _pad(chunk, rows, width, processor.tokenizer.pad_token_id)


def _pad(items: list[tuple], rows: int, width: int, pad_token_id: int) -> dict:
    input_ids = torch.full((rows, width), pad_token_id)
    labels = torch.full((rows, width), IGNORED)
    for row, (ids, label, _, _) in enumerate(items):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        labels[row, : len(ids)] = torch.tensor(label)
    batch = {"input_ids": input_ids, "labels": labels}
    if grids := [grid for _, _, grid, _ in items if grid is not None]:
        batch["image_grid_thw"] = torch.stack(grids)
        batch["pixel_values"] = torch.cat([patch for *_, patch in items if patch is not None])
    return batch


def forward(model: Qwen2VLForConditionalGeneration, batch: dict) -> tuple[Tensor, Tensor]:
    """Logits of the tokens that carry loss, and those tokens.

    Returns:
        (labelled, vocabulary) float32 and (labelled,) int64; filled up with IGNORED to a multiple of 64.
    """
    hidden = hidden_states(model, batch["input_ids"], batch.get("pixel_values"), batch.get("image_grid_thw"))
    labels = batch["labels"][:, 1:]
    row, column = (labels != IGNORED).nonzero(as_tuple=True)
    fill = -len(row) % 64
    row, column = torch.nn.functional.pad(row, (0, fill)), torch.nn.functional.pad(column, (0, fill))
    wanted = labels[row, column]
    wanted[len(wanted) - fill :] = IGNORED
    return model.lm_head(hidden[row, column]).float(), wanted


class CellHead(nn.Module):
    """Names what is in a cell from its visual token: object (or none), colour (or none) and background."""

    sizes = (len(OBJECTS) + 1, len(COLOURS) + 1, len(BACKGROUNDS))

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and the share of cells with everything right; tokens (cells, D), labels (cells, 3) int64."""
        logits = self.linear(tokens).float().split(self.sizes, dim=-1)
        loss = sum(cross_entropy(one, label) for one, label in zip(logits, labels.T, strict=True))
        right = torch.stack([one.argmax(-1) == label for one, label in zip(logits, labels.T, strict=True)])
        return loss, right.all(0).float().mean()


def cell_labels(scene: Scene) -> list[tuple[int, int, int]]:
    """Object, colour and background index of each of the four cells; the last object and colour mean none."""
    background = list(BACKGROUNDS).index(scene.background)
    cells = [(len(OBJECTS), len(COLOURS), background)] * 4
    for t in scene.things:
        cells[t.place] = (OBJECTS.index(t.name), list(COLOURS).index(t.colour), background)
    return cells


class Optimizer:
    """Muon on the hidden weight matrices, AdamW on everything else, as one.

    Muon needs about half the samples of AdamW here; embeddings, norms, biases and the patch convolution are outside
    its theory and stay with AdamW.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], recipe: Recipe) -> None:
        is_matrix = {name: p.ndim == 2 and "embed" not in name and "head" not in name for name, p in parameters.items()}
        matrices = [p for name, p in parameters.items() if is_matrix[name]]
        others = [p for name, p in parameters.items() if not is_matrix[name]]
        adjust = "match_rms_adamw"  # makes one learning rate fit both
        self.parameters = parameters
        self.parts = (
            torch.optim.Muon(matrices, weight_decay=recipe.weight_decay, adjust_lr_fn=adjust),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
        )

    def step(self, learning_rate: float, max_gradient_norm: float) -> float:
        """Clip, update, clear the gradients; returns the gradient norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), max_gradient_norm)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()
            part.zero_grad()
        return float(norm)

    def save(self, path: Path, step: int) -> None:
        """Write weights, moments and the number of finished steps as safetensors, replacing `path` atomically."""
        tensors = {"step": torch.tensor(step)}
        states = {parameter: part.state[parameter] for part in self.parts for parameter in part.state}
        for name, parameter in self.parameters.items():
            tensors[f"weight {name}"] = parameter.detach()
            tensors |= {f"{key} {name}": value for key, value in states[parameter].items()}
        partial = path.with_suffix(".partial")
        save_file(tensors, partial)
        partial.replace(path)

    def load(self, path: Path) -> int:
        """Restore what `save` wrote; returns the number of finished steps, 0 if there is no file."""
        if not path.exists():
            return 0
        tensors = load_file(path)
        names = {parameter: name for name, parameter in self.parameters.items()}
        for part in self.parts:
            for parameter in (p for group in part.param_groups for p in group["params"]):
                name = names[parameter]
                parameter.data.copy_(tensors[f"weight {name}"])
                keys = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's three, Muon's one
                saved = {key: tensors[f"{key} {name}"].clone() for key in keys if f"{key} {name}" in tensors}
                part.state[parameter] = saved
        return int(tensors["step"])


def pretrain_vision(model: Qwen2VLForConditionalGeneration, processor: G2EProcessor, recipe: Recipe) -> Iterator[dict]:
    """Run the first phase in place, yielding a log record a hundred steps."""
    visual = model.model.visual
    torch.manual_seed(recipe.seed)
    head = CellHead(model.config.text_config.hidden_size)
    parameters = dict(visual.named_parameters()) | {f"head.{n}": p for n, p in head.named_parameters()}
    optimizer = Optimizer(parameters, recipe)
    visual.train()
    for step in tqdm(range(recipe.vision_steps), desc="vision tower", unit="step", disable=rank() > 0):
        rng = random.Random(f"vision {recipe.seed} {step}")
        drawn = [(sample_scene(rng, "train"), rng.getrandbits(32)) for _ in range(recipe.vision_images)]
        scenes, views = zip(*drawn[rank() :: world_size()], strict=True)
        images = [render(scene, view) for scene, view in zip(scenes, views, strict=True)]
        pixels = processor.image_processor(images=images, return_tensors="pt")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = encode_images(visual, **pixels)
            loss, accuracy = head(tokens, torch.tensor([cell_labels(scene) for scene in scenes]).flatten(0, 1))
        loss.backward()
        average_gradients(parameters.values())
        remaining = 1 - step / recipe.vision_steps
        optimizer.step(recipe.vision_learning_rate * min(1.0, (step + 1) / 50, remaining * 2), recipe.max_gradient_norm)
        if (step + 1) % 100 == 0:
            yield {"phase": "vision", "step": step + 1, "loss": loss.item(), "cells_right": accuracy.item()}


def attention_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """transformers' sdpa outside autocast: the backward pass in bfloat16 takes three times as long on a CPU."""
    with torch.autocast("cpu", enabled=False):
        states = query.float(), key.float(), value.float()
        output, _ = sdpa_attention_forward(module, *states, attention_mask, **kwargs)
    return output.to(query.dtype), None


AttentionInterface.register(FLOAT32_ATTENTION, attention_in_float32)
AttentionMaskInterface.register(FLOAT32_ATTENTION, sdpa_mask)


def rank() -> int:
    """This process's number among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one exchange."""
    if world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch._utils._flatten_dense_tensors(gradients)
    dist.all_reduce(flat)
    flat /= world_size()
    for gradient, new in zip(gradients, torch._utils._unflatten_dense_tensors(flat, gradients), strict=True):
        gradient.copy_(new)


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Linear warm-up, constant, linear decay to zero (second phase)."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * min(warm, (recipe.steps - step) / recipe.decay_steps)


def train_step(model: Qwen2VLForConditionalGeneration, processor: G2EProcessor, recipe: Recipe, step: int) -> float:
    """Accumulate the gradient of one step of the second phase; returns the mean loss in nats a token."""
    rng = random.Random(f"language {recipe.seed} {step}")
    conversations = [sample_conversation(rng) for _ in range(recipe.conversations)][rank() :: world_size()]
    chunks = list(batches(conversations, processor, recipe.chunk_tokens))
    count = sum(int((chunk["labels"][:, 1:] != IGNORED).sum()) for chunk in chunks)
    total = 0.0
    for chunk in chunks:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, labels = forward(model, chunk)
        loss = cross_entropy(logits, labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total


def pretrain(recipe: Recipe, folder: Path) -> None:
    """Train a base model and save it as a Hugging Face directory; a second call resumes a killed one.

    Args:
        recipe: the settings.
        folder: receives `model/` (bf16), `log.jsonl` (loss and seconds), and the state to resume from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processor = build_processor(build_tokenizer(tokenizer_texts(recipe.seed)))
    model = build_model(processor.tokenizer, recipe.seed)
    model.model.visual.set_attn_implementation(PACKED_ATTENTION)
    model.model.language_model.set_attn_implementation(FLOAT32_ATTENTION)
    parameters = dict(model.named_parameters())
    optimizer, state = Optimizer(parameters, recipe), folder / "state.safetensors"
    finished = optimizer.load(state)
    if not finished:
        _log(folder, {"recipe": asdict(recipe), "processes": world_size()})
        vision = folder / "vision.safetensors"
        if vision.exists():
            model.model.visual.load_state_dict(load_file(vision))
        else:
            for record in pretrain_vision(model, processor, recipe):
                _log(folder, record)
            if rank() == 0:
                save_file(model.model.visual.state_dict(), vision)
    model.train()
    started, losses = time.perf_counter(), []
    bar = tqdm(range(finished, recipe.steps), initial=finished, total=recipe.steps, unit="step", disable=rank() > 0)
    for step in bar:
        losses.append(train_step(model, processor, recipe, step))
        average_gradients(parameters.values())
        norm = optimizer.step(learning_rate_at(step, recipe), recipe.max_gradient_norm)
        if (step + 1) % recipe.save_every == 0 or step + 1 == recipe.steps:
            seconds = time.perf_counter() - started
            record = {"phase": "language", "step": step + 1, "loss": sum(losses) / len(losses)}
            _log(folder, record | {"gradient_norm": norm, "seconds": seconds})
            if rank() == 0:
                optimizer.save(state, step + 1)
            started, losses = time.perf_counter(), []
    if rank() == 0:
        save_model(model, processor, folder / "model")


def _log(folder: Path, record: dict) -> None:
    if rank() == 0:
        with (folder / "log.jsonl").open("a") as log:
            log.write(json.dumps(record) + "\n")


def tokenizer_texts(seed: int) -> Iterator[str]:
    """The texts the tokenizer is trained on: sampled conversations without their special tokens."""
    rng = random.Random(f"tokenizer {seed}")
    for _ in range(TOKENIZER_SAMPLE):
        text = "".join(piece for piece, _ in sample_conversation(rng).segments())
        for token in SPECIAL_TOKENS:
            text = text.replace(token, "\n")
        yield text


def save_model(model: Qwen2VLForConditionalGeneration, processor: G2EProcessor, folder: Path) -> None:
    """Write an ordinary Hugging Face directory with bf16 weights."""
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    """Train with the default recipe into the folder given as the only argument (torchrun for several processes)."""
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    overrides = dict(pair.split("=") for pair in sys.argv[2:])
    recipe = replace(Recipe(), **{key: type(getattr(Recipe, key))(value) for key, value in overrides.items()})
    pretrain(recipe, Path(sys.argv[1]))


if __name__ == "__main__":
    main()
