"""Contrastive fine-tuning with LoRA on accelerate and peft: whole clusters a batch, gradient cache, exact resumption.

`accelerate launch -m g2e_lib.train CONFIG.yaml` and a call of `train` from a notebook are the same code. A step is a
function of the configuration, its number and the weights before it, so a run that was killed goes on from its last
save and ends with the same weights.
"""

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from peft import LoraConfig, PeftModel
from torch import Tensor
from tqdm.auto import tqdm
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from g2e_lib.backbone.adapter import load_state, new_adapter, save_state, start_from, write_card
from g2e_lib.backbone.sharding import shard_frozen_layers, wants_sharding
from g2e_lib.backbone.teacher import load_teacher
from g2e_lib.data.items import Item, item_digests
from g2e_lib.data.subsets import Subset, data_digest, load_subsets
from g2e_lib.embedder import Embedder, Encoder, default_device
from g2e_lib.gradcache import GradCache, info_nce
from g2e_lib.mining import load_clusters
from g2e_lib.project.config import fingerprint
from g2e_lib.project.provenance import environment, memory_mib, processor_name, reset_peak_memory
from g2e_lib.project.store import write_text
from g2e_lib.project.tracking import NONE, Log, check_tracker, claim_folder, read_log
from g2e_lib.prompts import VISION_BLOCK, render
from g2e_lib.train_config import TrainConfig, read_config
from g2e_lib.unime import choose_negatives, chosen_loss, distillation_loss

ADAPTER, STATE = "adapter", "state.safetensors"


# --- batches -------------------------------------------------------------------------------------------------------

PairRow = tuple[int, int]  # number of a subset, row of a pair in it


def training_clusters(config: TrainConfig, subsets: Sequence[Subset], identity: str) -> list[list[PairRow]]:
    """What stays together in a batch: mined clusters, or single pairs."""
    if not config.clusters:
        return [[(i, row)] for i, subset in enumerate(subsets) for row in range(len(subset.pairs))]
    mined = load_clusters(Path(config.clusters), subsets, identity, config.prompt)
    clusters = [[(i, row) for row in rows] for i, subset in enumerate(subsets) for rows in mined[subset.name]]
    return [[row] for cluster in clusters for row in cluster] if config.breaks_clusters else clusters


def cluster_batches(clusters: Sequence[list[PairRow]], pairs_per_step: int, seed: int) -> Iterator[list[PairRow]]:
    """Batches without end of exactly `pairs_per_step` rows, so that all methods train at the same cost.

    Whole clusters in random order, new every epoch; the last of a batch is cut to fit.
    """
    epoch, waiting = 0, []
    while True:
        batch: list[PairRow] = []
        taken: list[int] = []  # by this batch, so that the end of one epoch and the start of the next do not meet in it
        while len(batch) < pairs_per_step:
            if not waiting:
                waiting = list(range(len(clusters)))
                random.Random(f"clusters {seed} {epoch}").shuffle(waiting)
                waiting.sort(key=lambda number: number not in taken)  # popped from the end: those taken come last
                epoch += 1
            taken.append(waiting.pop())
            batch += clusters[taken[-1]][: pairs_per_step - len(batch)]
        yield batch


# --- losses --------------------------------------------------------------------------------------------------------

# (queries (B, D), targets (B, D), ids (B,), number of the step) -> the loss, and whose negatives targets are, (B, B)
# bool. B is the whole batch, of all processes; ids are equal where targets are, or rows of a teacher's embeddings.
Loss = Callable[[Tensor, Tensor, Tensor, int], tuple[Tensor, Tensor]]


def in_batch_loss(config: TrainConfig, queries: Tensor, targets: Tensor, ids: Tensor, _: int) -> tuple[Tensor, Tensor]:
    """InfoNCE against all of the batch's other targets."""
    known = ids if config.masks_duplicates else None
    return info_nce(queries, targets, known, config.temperature), ids[:, None] != ids


def chosen_negatives_loss(
    config: TrainConfig, queries: Tensor, targets: Tensor, ids: Tensor, step: int
) -> tuple[Tensor, Tensor]:
    """InfoNCE against the negatives that each query chooses in the batch (UniME, stage 2)."""
    similarity, known = queries.detach() @ targets.detach().T, ids if config.masks_duplicates else None
    seed = int(fingerprint([config.seed, step, "negatives"]), 16) % 2**63  # alike on every process
    generator = torch.Generator(similarity.device).manual_seed(seed)
    is_negative = choose_negatives(similarity, known, config.margin, config.num_negatives, config.negatives, generator)
    return chosen_loss(queries, targets, is_negative, config.temperature), is_negative


def teacher_loss(
    config: TrainConfig, taught: Tensor, queries: Tensor, targets: Tensor, ids: Tensor, _: int
) -> tuple[Tensor, Tensor]:
    """The distance of similarities from a teacher's (UniME, stage 1), whose embeddings of all pairs are (N, 2, E)."""
    batch = taught[ids.cpu()].to(ids.device)
    sentences, expected = torch.cat((queries, targets)), torch.cat((batch[:, 0], batch[:, 1]))
    return distillation_loss(sentences, expected, config.temperature), ids[:, None] != ids


def choose_loss(config: TrainConfig, taught: Tensor | None) -> Loss:
    """The loss of a run; `taught` are a teacher's embeddings."""
    if taught is not None:
        return partial(teacher_loss, config, taught)
    return partial(in_batch_loss if config.negatives == "all" else chosen_negatives_loss, config)


# --- one run -------------------------------------------------------------------------------------------------------


class Trainer:
    """A run in progress: model, adapter, optimizer and data; ValueError where they and the settings do not fit."""

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        is_sharded = wants_sharding(accelerator, config.pairs_per_step)
        self.subsets = load_subsets(
            Path(config.data), config.subsets, config.images, config.split, config.fraction, config.limit
        )
        self.embedder = open_embedder(config, str(accelerator.device))
        self.clusters = training_clusters(config, self.subsets, self.embedder.identity)
        content = {
            "weights": self.embedder.identity,
            "pairs": data_digest(self.subsets),
            "rows": fingerprint(self.clusters),
        }
        torch.manual_seed(config.seed)  # of the adapter's initial weights, alike on every process
        self.adapted = add_adapter(self.embedder, config)
        if config.start:
            content["started from"] = start_from(self.adapted, Path(config.start))
        self.encoder = Encoder(self.embedder, one_pass=is_sharded).eval()
        self.weights = {n: p for n, p in self.adapted.named_parameters() if p.requires_grad}
        if is_sharded:  # not before the adapter is complete: DoRA begins with the lengths of the frozen weights' rows
            shard_frozen_layers(self.embedder.model)
        taught = None  # a large teacher's embeddings are gigabytes: they stay in the machine's memory
        self.target_ids = number_targets(self.subsets)
        if config.teacher:
            check_language_only(self.weights, config)
            embeddings, content["taught by"] = load_teacher(Path(config.teacher), self.subsets)
            taught = torch.from_numpy(embeddings)
        self.settings = {**asdict(config), **content}
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=0.0, weight_decay=config.weight_decay)
        self.loss = choose_loss(config, taught)
        self.cache = GradCache(self.encoder, self._loss, config.chunk_size)
        self.first_row = np.cumsum([0, *(len(subset.pairs) for subset in self.subsets)])  # among all pairs
        self.number = 0  # of the step
        self.similarities: dict[str, float] = {}

    def _ids(self, rows: Sequence[PairRow]) -> list[int]:
        """What the loss knows pairs by, see Loss."""
        if self.config.teacher:
            return [int(self.first_row[i]) + row for i, row in rows]
        return [self.target_ids[self.subsets[i].pairs[row].target] for i, row in rows]

    def _loss(self, queries: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
        """The loss of the whole batch, of all processes; notes how similar positives and negatives are."""
        loss, is_negative = self.loss(queries, targets, ids, self.number)
        self.similarities = describe_similarities(queries.detach() @ targets.detach().T, is_negative)
        return loss

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to the peak, then linear decay; zero would be reached one step after the last."""
        warm, total = self.config.warmup_steps, self.config.steps
        return self.config.learning_rate * min((step + 1) / (warm + 1), (total - step) / max(1, total - warm), 1.0)

    def step(self, number: int, rows: Sequence[PairRow]) -> dict[str, float]:
        """One optimisation step; returns what is logged."""
        self.number = number
        processes, rank = self.accelerator.num_processes, self.accelerator.process_index
        ours = rows[len(rows) * rank // processes : len(rows) * (rank + 1) // processes]
        torch.manual_seed(int(fingerprint([self.config.seed, number, rank]), 16) % 2**63)  # of dropout
        pairs = [self.subsets[i].pairs[row] for i, row in ours]
        ids = torch.tensor(self._ids(ours), device=self.accelerator.device)
        queries = self.encoder.prepare([pair.query for pair in pairs], "query")
        targets = self.encoder.prepare([pair.target for pair in pairs], "target")
        self.encoder.train()
        with self.accelerator.autocast():
            loss = self.cache.step(queries, targets, ids)
        self.encoder.eval()
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.config.max_gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(number)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "step": number + 1,
            "loss": loss.item(),
            "gradient_norm": norm.item(),
            "learning_rate": self.learning_rate(number),
            **self.similarities,
        }


def describe_similarities(similarity: Tensor, is_negative: Tensor) -> dict[str, float]:
    """Means over a batch's queries: similarity to the positive, to the hardest negative, and to all negatives.

    Both are (B, B), cosines and bool; target i is the positive of query i. A query without negatives counts as -1.
    """
    hardest = similarity.masked_fill(~is_negative, -1).max(1).values
    total = similarity.masked_fill(~is_negative, 0).sum(1)
    mean = torch.where(is_negative.any(1), total / is_negative.sum(1).clamp(min=1), -1)
    return {
        "positive_similarity": similarity.diagonal().mean().item(),
        "hardest_negative_similarity": hardest.mean().item(),
        "negative_similarity": mean.mean().item(),
    }


def number_targets(subsets: Sequence[Subset]) -> dict[Item, int]:
    """A number for every target, the same for targets of the same content and on every process."""
    digests = item_digests(target for subset in subsets for target in subset.targets)
    numbers = {digest: i for i, digest in enumerate(sorted(set(digests.values())))}
    return {item: numbers[digest] for item, digest in digests.items()}


def open_embedder(config: TrainConfig, device: str) -> Embedder:
    """The model of a run without its adapter; ValueError where there is none, or an image's tokens would be cut."""
    embedder = Embedder.from_pretrained(
        config.model,
        prompt=config.prompt,
        device=device,
        dtype=config.dtype,
        max_length=config.max_length,
        images=config.image_rule,
    )
    if config.max_pixels:
        embedder.processor.image_processor.size["longest_edge"] = config.max_pixels
    check_image_fits(embedder)
    return embedder


def check_image_fits(embedder: Embedder) -> None:
    """Refuse settings under which a large image's tokens would be cut, by a ValueError naming the two in conflict."""
    processor, (shortest, longest) = embedder.processor.image_processor, embedder.pixel_bounds
    unit = processor.patch_size * processor.merge_size  # pixels along a side of a visual token
    side = embedder.images.square or embedder.images.max_side
    height, width = smart_resize(side, side, unit, shortest, longest) if side else (longest // unit, unit)
    visual = height * width // unit**2
    text = render(embedder.prompt, "query", "", has_image=True).replace(VISION_BLOCK, "")
    needed = visual + 2 + len(embedder.processor.tokenizer(text, add_special_tokens=False).input_ids)
    if needed > embedder.max_length:
        raise ValueError(
            f"max_length {embedder.max_length} and max_pixels {longest} conflict: an image may take {visual} tokens "
            f"and the prompt {needed - visual}: raise max_length to {needed}, lower max_pixels, or take another "
            "image_rule"
        )


def add_adapter(embedder: Embedder, config: TrainConfig) -> PeftModel:
    """Put a new LoRA adapter onto the embedder's model, in place; ValueError where no layer fits `lora_targets`."""
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
        use_dora=config.use_dora,
        init_lora_weights="gaussian" if config.lora_init == "gaussian" else True,
    )
    return new_adapter(embedder.model, settings, config.model)


def check_language_only(names: Iterable[str], config: TrainConfig) -> None:
    """Refuse to distil into anything but the language model (UniME, stage 1)."""
    if wrong := [name for name in names if "language_model" not in name or "lora_" not in name]:
        raise ValueError(
            f"a text teacher teaches the language model's adapter only, but lora_targets {config.lora_targets!r} also "
            f"trains {wrong[0]}: leave lora_targets at its default"
        )


def train(config: TrainConfig) -> Path:
    """Train an adapter, or finish a run that was killed; a finished one is left as it is.

    Returns:
        The adapter's folder, in PEFT's own format.

    Raises:
        ValueError: settings, data, model or clusters do not fit together, the folder holds another run, or the tracker
            is not installed.
        RuntimeError: out of memory; the message names the setting to lower.
    """
    folder = Path(config.folder)
    adapter = folder / ADAPTER
    is_cpu = default_device() == "cpu" or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    check_tracker(config.report_to)
    accelerator = Accelerator(
        cpu=is_cpu,
        mixed_precision="bf16" if config.dtype != "float32" and not is_cpu else "no",
        log_with=None if config.report_to == NONE else config.report_to,
        project_config=ProjectConfiguration(logging_dir=str(folder)),
    )
    if config.pairs_per_step < accelerator.num_processes:
        raise ValueError(
            f"pairs_per_step {config.pairs_per_step} is less than the {accelerator.num_processes} processes: raise it"
        )
    reset_peak_memory()
    if not is_cpu:
        torch.cuda.reset_peak_memory_stats()
    trainer = Trainer(config, accelerator)
    noted = {name: value for name, value in trainer.settings.items() if name not in NOT_THE_RUN}
    claim_folder(folder, noted, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if (adapter / "adapter_config.json").exists():
        return adapter
    done = load_state(folder / STATE, trainer.weights, trainer.optimizer)
    with Log(folder, done, accelerator, config.report_to, noted) as log:
        batches = cluster_batches(trainer.clusters, config.pairs_per_step, config.seed)
        bar = tqdm(total=config.steps, initial=done, desc="train", unit="step", disable=not accelerator.is_main_process)
        for number, rows in zip(range(config.steps), batches, strict=False):
            if number < done:
                continue
            started = time.perf_counter()
            try:
                record = trainer.step(number, rows)
            except (torch.OutOfMemoryError, MemoryError):
                raise RuntimeError(
                    f"out of memory in step {number + 1} with chunk_size {config.chunk_size}: lower it and start "
                    "again, the run goes on from its last save"
                ) from None
            log.write(record | speed(len(rows), time.perf_counter() - started))
            bar.update()
            bar.set_postfix(loss=f"{record['loss']:.3f}")
            if (number + 1) % config.save_every == 0 and accelerator.is_main_process:
                save_state(folder / STATE, trainer.weights, trainer.optimizer, number + 1)
        bar.close()
    if accelerator.is_main_process:
        save_adapter(trainer, folder)
    accelerator.wait_for_everyone()
    return adapter


def speed(pairs: int, seconds: float) -> dict[str, float]:
    """Pairs per second, and the most memory the process or its GPU has used since the run began."""
    peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_initialized() else memory_mib()
    return {"pairs_per_second": pairs / seconds, "peak_memory_mib": peak, "seconds": seconds}


# Settings that may change before a run is resumed: where things are (their content is compared), memory, and reports.
NOT_THE_RUN = ("folder", "data", "images", "clusters", "teacher", "start", "model", "save_every", "chunk_size")
NOT_THE_RUN += ("report_to",)


def save_adapter(trainer: Trainer, folder: Path) -> None:
    """Write the adapter in PEFT's format with its log and a model card; it appears at its place as a whole."""
    config, records = trainer.config, read_log(folder)
    partial = folder / f".{ADAPTER}"
    trainer.adapted.save_pretrained(partial, save_embedding_layers=False)  # none train; else peft asks the hub
    write_text(partial / "training.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    libraries = environment()["libraries"]
    facts = {
        "base model": config.model,
        "base weights": trainer.embedder.identity,
        "prompt": config.prompt,
        "training data": ", ".join(config.subsets),
        "training pairs": sum(len(subset.pairs) for subset in trainer.subsets),
        "mined clusters": len(trainer.clusters) if config.clusters else "none, in-batch negatives",
        "steps x pairs": f"{config.steps} x {config.pairs_per_step}",
        "seed": config.seed,
        "seconds": f"{sum(record['seconds'] for record in records):.0f}",
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "torch, transformers, peft": ", ".join(str(libraries[name]) for name in ("torch", "transformers", "peft")),
        "commit": environment()["commit"],
    }
    write_card(partial, config.model, facts)
    partial.replace(folder / ADAPTER)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train from a configuration file; returns the exit status."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if len(arguments) != 1:
        print("usage: accelerate launch -m g2e_lib.train CONFIG.yaml", file=sys.stderr)  # noqa: T201
        return 2
    try:
        print(train(read_config(Path(arguments[0]))))  # noqa: T201
    except (ValueError, RuntimeError) as error:
        print(f"train: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
