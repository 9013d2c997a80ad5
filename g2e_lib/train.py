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
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
    set_peft_model_state_dict,
)
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from tqdm.auto import tqdm
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from g2e_lib.backbone.checkpoint import checkpoint_fingerprint
from g2e_lib.backbone.sharding import shard_frozen_layers, wants_sharding
from g2e_lib.backbone.teacher import load_teacher
from g2e_lib.data.items import Item, item_digests
from g2e_lib.data.subsets import Subset, data_digest, load_subsets
from g2e_lib.embedder import Embedder, Encoder, default_device
from g2e_lib.gradcache import GradCache, info_nce
from g2e_lib.mining import load_clusters
from g2e_lib.project.config import fingerprint
from g2e_lib.project.provenance import environment, memory_mib, processor_name, reset_peak_memory
from g2e_lib.project.store import atomic_path, write_json, write_text
from g2e_lib.project.tracking import NONE, Log, check_tracker, read_log
from g2e_lib.prompts import VISION_BLOCK, render
from g2e_lib.train_config import TrainConfig, read_config
from g2e_lib.unime import choose_negatives, chosen_loss, distillation_loss

ADAPTER, STATE, CONFIG = "adapter", "state.safetensors", "config.json"


# --- batches -------------------------------------------------------------------------------------------------------

Row = tuple[int, int]  # number of a subset, row in it


def training_clusters(config: TrainConfig, subsets: Sequence[Subset], identity: str) -> list[list[Row]]:
    """What stays together in a batch: mined clusters, or single pairs."""
    if not config.clusters:
        return [[(i, row)] for i, subset in enumerate(subsets) for row in range(len(subset.pairs))]
    mined = load_clusters(Path(config.clusters), subsets, identity, config.prompt)
    clusters = [[(i, row) for row in rows] for i, subset in enumerate(subsets) for rows in mined[subset.name]]
    return [[row] for cluster in clusters for row in cluster] if config.breaks_clusters else clusters


def cluster_batches(clusters: Sequence[list[Row]], pairs_per_step: int, seed: int) -> Iterator[list[Row]]:
    """Batches without end: whole clusters in random order, new every epoch; the last of a batch is cut to fit.

    Every batch has exactly `pairs_per_step` rows, so that all methods train at the same cost.
    """
    epoch, waiting = 0, []
    while True:
        batch: list[Row] = []
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


# --- one run -------------------------------------------------------------------------------------------------------


class Trainer:
    """A run in progress: model, adapter, optimizer and data.

    Args:
        config: the settings.
        accelerator: device, processes and precision.

    Raises:
        ValueError: data, model, clusters or settings do not fit together.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator) -> None:
        self.config, self.accelerator = config, accelerator
        is_sharded = wants_sharding(accelerator, config.pairs_per_step)
        subsets = load_subsets(
            Path(config.data), config.subsets, config.images, config.split, config.fraction, config.limit
        )
        self.embedder = Embedder.from_pretrained(
            config.model,
            prompt=config.prompt,
            device=str(accelerator.device),
            dtype=config.dtype,
            max_length=config.max_length,
            images=config.image_rule,
        )
        if config.max_pixels:
            self.embedder.processor.image_processor.size["longest_edge"] = config.max_pixels
        check_image_fits(self.embedder)
        self.subsets = subsets
        self.clusters = training_clusters(config, subsets, self.embedder.identity)
        content = {"weights": self.embedder.identity, "pairs": data_digest(subsets), "rows": fingerprint(self.clusters)}
        torch.manual_seed(config.seed)  # of the adapter's initial weights, alike on every process
        self.adapted = add_adapter(self.embedder, config)
        if config.start:
            content["started from"] = start_from(self.adapted, Path(config.start))
        self.encoder = Encoder(self.embedder, one_pass=is_sharded).eval()
        self.weights = {n: p for n, p in self.adapted.named_parameters() if p.requires_grad}
        if is_sharded:  # not before the adapter is complete: DoRA begins with the lengths of the frozen weights' rows
            shard_frozen_layers(self.embedder.model)
        self.teacher: Tensor | None = None
        if config.teacher:
            check_language_only(self.weights, config)
            embeddings, content["taught by"] = load_teacher(Path(config.teacher), subsets)
            self.teacher = torch.from_numpy(embeddings)  # gigabytes for a large teacher: stays in the machine's memory
        self.settings = {**asdict(config), **content}
        self.optimizer = torch.optim.AdamW(self.weights.values(), lr=0.0, weight_decay=config.weight_decay)
        self.cache = GradCache(self.encoder, self._loss, config.chunk_size)
        self.target_ids = number_targets(subsets)
        self.first_row = np.cumsum([0, *(len(subset.pairs) for subset in subsets)])  # of each subset among all pairs
        self.number = 0  # of the step
        self.similarities: dict[str, float] = {}

    def _ids(self, rows: Sequence[Row]) -> list[int]:
        """What the loss knows a pair by: its target's number, or with a teacher its row among all pairs."""
        if self.teacher is not None:
            return [int(self.first_row[i]) + row for i, row in rows]
        return [self.target_ids[self.subsets[i].pairs[row].target] for i, row in rows]

    def _loss(self, queries: Tensor, targets: Tensor, ids: Tensor) -> Tensor:
        """The loss of the whole batch, of all processes; notes how similar positives and negatives are."""
        config, similarity = self.config, queries.detach() @ targets.detach().T
        is_negative = ids[:, None] != ids
        if config.negatives != "all":
            seed = int(fingerprint([config.seed, self.number, "negatives"]), 16) % 2**63  # alike on every process
            is_negative = choose_negatives(
                similarity,
                ids if config.masks_duplicates else None,
                config.margin,
                config.num_negatives,
                config.negatives,
                torch.Generator(similarity.device).manual_seed(seed),
            )
        self.similarities = describe_similarities(similarity, is_negative)
        if self.teacher is not None:
            sentences, taught = torch.cat((queries, targets)), self.teacher[ids.cpu()].to(ids.device)
            return distillation_loss(sentences, torch.cat((taught[:, 0], taught[:, 1])), config.temperature)
        if config.negatives != "all":
            return chosen_loss(queries, targets, is_negative, config.temperature)
        return info_nce(queries, targets, ids if config.masks_duplicates else None, config.temperature)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to the peak, then linear decay; zero would be reached one step after the last."""
        warm, total = self.config.warmup_steps, self.config.steps
        return self.config.learning_rate * min((step + 1) / (warm + 1), (total - step) / max(1, total - warm), 1.0)

    def step(self, number: int, rows: Sequence[Row]) -> dict[str, float]:
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

    def save_state(self, path: Path, step: int) -> None:
        """Write weights and optimizer, atomically."""
        tensors = {f"weight {name}": weight.detach() for name, weight in self.weights.items()}
        for name, weight in self.weights.items():
            for key, value in self.optimizer.state[weight].items():
                tensors[f"{key} {name}"] = value
        with atomic_path(path) as partial:
            save_file({n: t.contiguous() for n, t in tensors.items()}, partial, metadata={"step": str(step)})

    def load_state(self, path: Path) -> int:
        """Go back to a saved state; returns how many steps were done, 0 without one."""
        if not path.exists():
            return 0
        with safe_open(path, "pt", device=str(self.accelerator.device)) as file, torch.no_grad():
            found: dict[str, dict[str, Tensor]] = {name: {} for name in self.weights}
            for key in file.keys():  # noqa: SIM118
                kind, name = key.split(" ", 1)
                found[name][kind] = file.get_tensor(key)
            for name, weight in self.weights.items():
                weight.copy_(found[name].pop("weight"))
                if state := found[name]:  # a weight that has had no gradient yet has none
                    self.optimizer.state[weight] = {**state, "step": state["step"].cpu()}
            return int(file.metadata()["step"])


def describe_similarities(similarity: Tensor, is_negative: Tensor) -> dict[str, float]:
    """Means over a batch's queries: similarity to the positive, to the hardest negative, and to all negatives.

    Args:
        similarity: (B, B) cosines; target i is the positive of query i.
        is_negative: (B, B) bool. A query without negatives counts as -1, the least a cosine can be.
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


def check_image_fits(embedder: Embedder) -> None:
    """Refuse settings under which the tokens of a large image would have to be cut.

    Raises:
        ValueError: names the two settings that conflict.
    """
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
    """Put a new LoRA adapter onto the embedder's model, in place.

    Raises:
        ValueError: no layer fits `lora_targets`.
    """
    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.lora_targets,
        use_dora=config.use_dora,
        init_lora_weights="gaussian" if config.lora_init == "gaussian" else True,
    )
    try:
        adapted = get_peft_model(embedder.model, settings)
    except ValueError as error:
        raise ValueError(f"lora_targets {config.lora_targets!r} fit no layer: {str(error).splitlines()[0]}") from None
    # The folder of an embedded model is this machine's business; its name is everybody's.
    adapted.peft_config["default"].base_model_name_or_path = config.model
    return adapted


def start_from(adapted: PeftModel, folder: Path) -> str:
    """Give a new adapter the weights of another one of the same shape; returns that one's fingerprint.

    Raises:
        ValueError: there is no adapter in the folder, or it has other layers, rank or scale.
    """
    try:
        theirs = LoraConfig.from_pretrained(folder)
        weights = load_peft_weights(str(folder), device="cpu")
    except (ValueError, OSError) as error:
        raise ValueError(f"start {folder} is no folder of an adapter ({str(error).splitlines()[0]})") from None
    ours, shapes = (
        adapted.peft_config["default"],
        {n: w.shape for n, w in get_peft_model_state_dict(adapted, save_embedding_layers=False).items()},
    )
    different = [n for n in ("r", "lora_alpha", "use_dora") if getattr(ours, n) != getattr(theirs, n)]
    if different or {n: w.shape for n, w in weights.items()} != shapes:
        what = f"{different[0]} {getattr(theirs, different[0])}" if different else "other layers"
        raise ValueError(f"the adapter in {folder} has {what}: start from one with the settings of this run")
    set_peft_model_state_dict(adapted, weights)
    return checkpoint_fingerprint(folder)


def check_language_only(names: Iterable[str], config: TrainConfig) -> None:
    """Refuse to distil into anything but the language model (UniME, stage 1).

    Raises:
        ValueError: another weight would train.
    """
    if wrong := [name for name in names if "language_model" not in name or "lora_" not in name]:
        raise ValueError(
            f"a text teacher teaches the language model's adapter only, but lora_targets {config.lora_targets!r} also "
            f"trains {wrong[0]}: leave lora_targets at its default"
        )


def train(config: TrainConfig) -> Path:
    """Train an adapter, or finish a run that was killed; a finished one is left as it is.

    Args:
        config: the settings.

    Returns:
        The adapter's folder, in PEFT's own format.

    Raises:
        ValueError: settings, data, model or clusters do not fit together, the folder holds another run, or the
            tracker is not installed.
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
    noted = claim_folder(folder, trainer.settings, accelerator.is_main_process)
    accelerator.wait_for_everyone()
    if (adapter / "adapter_config.json").exists():
        return adapter
    done = trainer.load_state(folder / STATE)
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
                trainer.save_state(folder / STATE, number + 1)
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


def claim_folder(folder: Path, settings: dict, is_main: bool) -> dict:
    """Note whose run a folder holds; returns what is noted, in which no path occurs.

    Raises:
        ValueError: it holds another one; the message names a setting that differs.
    """
    path = folder / CONFIG
    settings = json.loads(json.dumps({k: v for k, v in settings.items() if k not in NOT_THE_RUN}))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if different := [name for name in settings if found.get(name) != settings[name]]:
            name = different[0]
            raise ValueError(
                f"{folder} holds a run with {name} {found.get(name)!r} instead of {settings[name]!r}: choose another "
                "folder, or delete it"
            )
    elif is_main:
        write_json(path, settings)
    return settings


def save_adapter(trainer: Trainer, folder: Path) -> None:
    """Write the adapter in PEFT's format with its log and a model card; it appears at its place as a whole."""
    config, records = trainer.config, read_log(folder)
    partial = folder / f".{ADAPTER}"
    trainer.adapted.save_pretrained(partial, save_embedding_layers=False)  # none train; else peft asks the hub
    write_text(partial / "training.jsonl", "".join(json.dumps(record) + "\n" for record in records))
    made_on = environment()
    facts = {
        "base model": config.model,
        "base weights": trainer.embedder.identity,
        "prompt": config.prompt,
        "training data": ", ".join(config.subsets),
        "training pairs": str(sum(len(subset.pairs) for subset in trainer.subsets)),
        "mined clusters": f"{len(trainer.clusters)}" if config.clusters else "none, in-batch negatives",
        "steps x pairs": f"{config.steps} x {config.pairs_per_step}",
        "seed": str(config.seed),
        "seconds": f"{sum(record['seconds'] for record in records):.0f}",
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else processor_name(),
        "torch, transformers, peft": ", ".join(str(made_on["libraries"][n]) for n in ("torch", "transformers", "peft")),
        "commit": made_on["commit"],
    }
    card = ["---", f"base_model: {config.model}", "library_name: peft", "tags: [embeddings, lora]", "---", ""]
    card += ["# A multimodal embedder (LoRA adapter)", "", "| fact | value |", "|---|---|"]
    card += [f"| {name} | {value} |" for name, value in facts.items()]
    card += ["", "Use: `Embedder.from_pretrained(base, prompt=..., adapter=this_folder)` of g2e_lib.", ""]
    write_text(partial / "README.md", "\n".join(card))
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
