"""Pre-train the base model from scratch, on generative data of the train split only.

First the vision tower learns to name object, colour, background and place of every cell it sees, in the language
model's first word embeddings. Then the language model learns the assistant's words of the conversations in corpus.py,
with the tower frozen: trained along, it soon forgets what it saw. Every batch is a function of the seed and the step,
so a killed run resumes exactly. All but the second phase's matrix products is float32.
"""

import json
import math
import os
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import PACKED_ATTENTION
from g2e_lib.glyphworld.pretraining.batches import IGNORED, batches, forward
from g2e_lib.glyphworld.pretraining.corpus import sample_conversation
from g2e_lib.glyphworld.pretraining.model import SPECIAL_TOKENS, build_model, build_processor, build_tokenizer
from g2e_lib.glyphworld.pretraining.optimizer import Optimizer, average_gradients, rank, world_size
from g2e_lib.glyphworld.pretraining.recipe import Recipe, learning_rate_at, lesson_at
from g2e_lib.glyphworld.pretraining.vision import pretrain_vision
from g2e_lib.project.config import file_digest
from g2e_lib.project.provenance import environment, processor_name
from g2e_lib.project.store import atomic_path, write_text

TRAINING_RECORD = "training.jsonl"  # beside the weights
BASE_MODELS = Path(__file__).with_name("base_models.json")
TOKENIZER_SAMPLE = 20_000  # conversations the tokenizer is trained on


def train_step(model: PreTrainedModel, processor: G2EProcessor, recipe: Recipe, step: int) -> float:
    """Accumulate the gradient of one step of the second phase; returns the mean loss in nats a token."""
    rng = random.Random(f"language {recipe.seed} {step}")
    lesson = lesson_at(step, recipe)
    drawn = [sample_conversation(rng, lesson=lesson) for _ in range(recipe.conversations)]
    conversations = drawn[rank() :: world_size()]
    chunks = list(batches(conversations, processor, recipe.chunk_tokens))
    count = sum(int((chunk["labels"][:, 1:] != IGNORED).sum()) for chunk in chunks)
    total = 0.0
    for chunk in chunks:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.bfloat16):
            logits, labels = forward(model, chunk)
        loss = cross_entropy(logits, labels, reduction="sum") / count
        loss.backward()
        total += loss.item()
    return total


def pretrain(recipe: Recipe, folder: Path) -> Path:
    """Train a base model into `folder`/model, a Hugging Face directory (bfloat16) whose path is returned.

    `folder` also gets `log.jsonl` (loss and seconds), and the state from which a second call resumes a killed one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    processor = build_processor(build_tokenizer(tokenizer_texts(recipe.seed)))
    model = build_model(processor.tokenizer, recipe.seed)
    model.model.visual.set_attn_implementation(PACKED_ATTENTION)
    _teach_vision(model, processor, recipe, folder)
    model.model.visual.requires_grad_(requires_grad=False)
    _teach_language(model, processor, recipe, folder)
    if rank() == 0:
        model.to(torch.bfloat16).save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        write_training_record(folder, recipe)
    return folder / "model"


def _teach_vision(model: PreTrainedModel, processor: G2EProcessor, recipe: Recipe, folder: Path) -> None:
    tower, saved = model.model.visual, folder / "vision.safetensors"
    if saved.exists():
        tower.load_state_dict(load_file(saved))
        return
    _log(folder, {"recipe": asdict(recipe), "processes": world_size()})
    started = time.perf_counter()
    for record in pretrain_vision(model, processor, recipe):
        _log(folder, record | {"seconds": round(time.perf_counter() - started, 1)})
        started = time.perf_counter()
    if rank() == 0:
        with atomic_path(saved) as partial:
            save_file(tower.state_dict(), partial)


def _teach_language(model: PreTrainedModel, processor: G2EProcessor, recipe: Recipe, folder: Path) -> None:
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer, state = Optimizer(parameters, recipe.weight_decay), folder / "state.safetensors"
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


def write_training_record(folder: Path, recipe: Recipe) -> None:
    """Write `model/training.jsonl`: the facts of a training run in the first line, then its log."""
    records = _lines(folder / "log.jsonl")
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
    """The facts and the log of a base model's training; ValueError where the checkpoint has none."""
    path = Path(folder) / TRAINING_RECORD
    if not path.is_file():
        raise ValueError(f"{folder} has no {TRAINING_RECORD}: it is not a GlyphWorld base model, use glyphworld-base")
    facts, *log = _lines(path)
    return facts, log


def _lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":  # trains into the folder of the first argument; `name=value` sets a number of the recipe
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    overrides = dict(pair.split("=") for pair in sys.argv[2:])
    pretrain(replace(Recipe(), **{key: json.loads(value) for key, value in overrides.items()}), Path(sys.argv[1]))
