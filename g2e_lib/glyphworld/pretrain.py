"""Pre-train the base model from scratch, on generative data only.

Two phases. First the vision tower learns, under plain supervision, to name object, colour, background and place of
every cell it sees (a linear head that is thrown away). Then the language model learns next-token prediction on the
assistant's words of the conversations in corpus.py, with the tower frozen: trained along, it soon forgets what it
saw, long before the language model has learned to use it. Scenes come from the train split alone. Every batch is a
function of the seed and the step, so a killed run resumes exactly.
"""

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import AttentionInterface, AttentionMaskInterface, Qwen2VLForConditionalGeneration
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from g2e_lib.config import file_digest
from g2e_lib.glyphworld.corpus import Conversation, sample_conversation
from g2e_lib.glyphworld.model import SPECIAL_TOKENS, build_model, build_processor, build_tokenizer
from g2e_lib.glyphworld.render import CELL, render
from g2e_lib.glyphworld.scenes import Scene, sample_scene
from g2e_lib.glyphworld.vocabulary import BACKGROUNDS, COLOURS, OBJECTS, PLACES
from g2e_lib.processor import G2EProcessor
from g2e_lib.provenance import environment, processor_name
from g2e_lib.qwen2vl import PACKED_ATTENTION, encode_images, hidden_states
from g2e_lib.store import write_text

IGNORED = -100  # label of tokens that carry no loss
FLOAT32_ATTENTION = "float32_sdpa"
LENGTH_STEP = 8  # tokens
# Without instructions for it a CPU emulates bfloat16, several times slower than float32.
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
TRAINING_RECORD = "training.jsonl"  # beside the weights
BASE_MODELS = Path(__file__).with_name("base_models.json")
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
    vision_steps: int = 1000
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
        conversation: the chat.
        processor: its tokenizer is used.
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

    Lengths are multiples of LENGTH_STEP, so that few shapes occur.
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
    """Names what is in a cell from its visual token: object (or none), colour (or none), background and place."""

    sizes = (len(OBJECTS) + 1, len(COLOURS) + 1, len(BACKGROUNDS), len(PLACES) + 1)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, sum(self.sizes))

    def forward(self, tokens: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss and the share of cells with everything right; tokens (cells, D), labels (cells, 4) int64."""
        logits = self.linear(tokens).float().split(self.sizes, dim=-1)
        loss = sum(cross_entropy(one, label) for one, label in zip(logits, labels.T, strict=True))
        right = torch.stack([one.argmax(-1) == label for one, label in zip(logits, labels.T, strict=True)])
        return loss, right.all(0).float().mean()


def cell_labels(scene: Scene, place: int | None = None) -> list[tuple[int, int, int, int]]:
    """Object, colour, background and place of the four cells, or of the crop at `place`; the last of each is none."""
    background = list(BACKGROUNDS).index(scene.background)
    cells = [(len(OBJECTS), len(COLOURS), background, corner) for corner in range(len(PLACES))]
    for t in scene.things:
        cells[t.place] = (OBJECTS.index(t.name), list(COLOURS).index(t.colour), background, t.place)
    return cells if place is None else [(*cells[place][:3], len(PLACES))]


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of a matrix close to 1 by the quintic Newton-Schulz iteration of Muon, in float32."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalized updates, scaled so that AdamW's learning rates fit.

    torch.optim.Muon is the same up to its bfloat16 iteration, which most CPUs have to emulate.
    """

    def __init__(self, matrices: list[nn.Parameter], weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": 1e-3, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix from its gradient; processes share the orthogonalizing."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            updates = [torch.zeros_like(matrix) for matrix in group["params"]]
            for index, matrix in enumerate(group["params"]):
                buffer = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                buffer.lerp_(matrix.grad, 1 - momentum)
                if index % world_size() == rank():
                    updates[index] = orthogonalize(matrix.grad.lerp(buffer, momentum))
            sum_over_processes(updates)
            for matrix, update in zip(group["params"], updates, strict=True):
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(update, alpha=-rate * 0.2 * max(matrix.shape) ** 0.5)


class Optimizer:
    """Muon on the hidden weight matrices, AdamW on everything else, as one.

    Muon needs about half the samples of AdamW here; embeddings, norms, biases and the patch convolution are outside
    its theory and stay with AdamW.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], recipe: Recipe) -> None:
        is_matrix = {name: p.ndim == 2 and "embed" not in name and "head" not in name for name, p in parameters.items()}
        matrices = [p for name, p in parameters.items() if is_matrix[name]]
        others = [p for name, p in parameters.items() if not is_matrix[name]]
        self.parameters = parameters
        self.parts = (
            Muon(matrices, recipe.weight_decay),
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
        drawn = [_drawn(rng) for _ in range(recipe.vision_images)][rank() :: world_size()]
        pixels = processor.image_processor(images=[conversation_image(one) for one in drawn], return_tensors="pt")
        labels = torch.tensor([cell for one in drawn for cell in cell_labels(one.scene, one.place)])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=HAS_BFLOAT16):
            tokens = encode_images(visual, **pixels)
            loss, accuracy = head(tokens, labels)
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


def attention_in_float32(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: object
) -> tuple[Tensor, None]:
    """Transformers' sdpa outside autocast: the backward pass in bfloat16 takes three times as long on a CPU."""
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


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in one exchange."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, new in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(new.view_as(tensor))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sum_over_processes(gradients)
    for gradient in gradients:
        gradient /= world_size()


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
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=HAS_BFLOAT16):
            logits, labels = forward(model, chunk)
        loss = cross_entropy(logits, labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total


def pretrain(recipe: Recipe, folder: Path) -> Path:
    """Train a base model and save it as a Hugging Face directory; a second call resumes a killed one.

    Args:
        recipe: the settings.
        folder: receives `model/` (bf16), `log.jsonl` (loss and seconds), and the state to resume from.

    Returns:
        The folder of the model.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processor = build_processor(build_tokenizer(tokenizer_texts(recipe.seed)))
    model = build_model(processor.tokenizer, recipe.seed)
    model.model.visual.set_attn_implementation(PACKED_ATTENTION)
    model.model.language_model.set_attn_implementation(FLOAT32_ATTENTION)
    vision, state = folder / "vision.safetensors", folder / "state.safetensors"
    if vision.exists():
        model.model.visual.load_state_dict(load_file(vision))
    else:
        _log(folder, {"recipe": asdict(recipe), "processes": world_size()})
        started = time.perf_counter()
        for record in pretrain_vision(model, processor, recipe):
            _log(folder, record | {"seconds": round(time.perf_counter() - started, 1)})
            started = time.perf_counter()
        if rank() == 0:
            save_file(model.model.visual.state_dict(), vision)
    model.model.visual.requires_grad_(requires_grad=False)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = Optimizer(parameters, recipe)
    finished = optimizer.load(state)
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
            _log(folder, record | {"gradient_norm": norm, "seconds": round(seconds, 1)})
            if rank() == 0:
                optimizer.save(state, step + 1)
            started, losses = time.perf_counter(), []
    if rank() == 0:
        save_model(model, processor, folder / "model")
        write_training_record(folder, recipe)
    return folder / "model"


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


def write_training_record(folder: Path, recipe: Recipe) -> None:
    """Write `model/training.jsonl`: the facts of a training run in the first line, then its log."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    weights = folder / "model" / "model.safetensors"
    with safe_open(weights, "pt") as file:
        parameters = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    made_on = environment()
    facts = {
        "parameters": parameters,
        "seed": recipe.seed,
        "steps": recipe.steps,
        "pictures (first phase)": recipe.vision_steps * recipe.vision_images,
        "conversations (second phase)": recipe.steps * recipe.conversations,
        "seconds": round(sum(record.get("seconds", 0) for record in records)),
        "hardware": f"{processor_name()}, {records[0]['processes']} processes of one thread",
        "torch": made_on["libraries"]["torch"],
        "transformers": made_on["libraries"]["transformers"],
        "commit": made_on["commit"],
        "sha256 of weights": file_digest(weights),
        "recipe": asdict(recipe),
    }
    lines = [facts, *(record for record in records if "phase" in record)]
    write_text(folder / "model" / TRAINING_RECORD, "".join(json.dumps(line) + "\n" for line in lines))


def read_training_record(folder: str | Path) -> tuple[dict, list[dict]]:
    """The facts and the log of a base model's training.

    Raises:
        ValueError: the checkpoint has none.
    """
    path = Path(folder) / TRAINING_RECORD
    if not path.is_file():
        raise ValueError(f"{folder} has no {TRAINING_RECORD}: it is not a GlyphWorld base model, use glyphworld-base")
    facts, *log = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return facts, log


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
