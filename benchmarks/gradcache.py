"""What does the gradient cache cost in time, and what does it save in memory, against one plain big batch?

Run with `python benchmarks/gradcache.py`; writes
benchmarks/gradcache.json. Steps of both kinds are timed alternately in one run; peak memory is that of processes of
their own, above what is resident before the step. In operations a step costs 4/3 of a plain one where all weights
train (a backward pass is two forward ones), 3/2 where most are frozen as here (it is about one), and less by the
share of the last chunk, which needs no second forward pass. In seconds it can cost less than that, even less than a
plain step, because a big batch pays for touching so much memory. sentence-transformers'
CachedMultipleNegativesRankingLoss, made to run the same encoder on the same batch and chunks, must give the same
gradients.
"""

import argparse
import json
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from g2e_lib.embedder import Embedder, Encoder, Prepared
from g2e_lib.glyphworld.world.language import short_caption
from g2e_lib.glyphworld.world.render import render
from g2e_lib.glyphworld.world.scenes import sample_scene
from g2e_lib.gradcache import TEMPERATURE, GradCache, info_nce
from g2e_lib.project.provenance import environment, memory_mib, processor_name, reset_peak_memory
from g2e_lib.train import add_adapter
from g2e_lib.train_config import TrainConfig

CHUNK = 128


def encoder_with_adapter() -> Encoder:
    """The embedded model with a LoRA adapter, without dropout."""
    embedder = Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32")
    torch.manual_seed(0)
    add_adapter(embedder, TrainConfig(folder="", data="", subsets=("none",)))
    for name, weight in embedder.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.01)  # as after some training: a zero factor has few gradients
    return Encoder(embedder)


def caption_pairs(encoder: Encoder, count: int) -> tuple[list[Prepared], list[Prepared]]:
    """Captions as queries and images as targets."""
    rng = random.Random("gradcache benchmark")
    scenes = [sample_scene(rng, "train") for _ in range(count)]
    captions = [short_caption(scene, rng)[0] for scene in scenes]
    images = [render(scene, rng.getrandbits(32)) for scene in scenes]
    return encoder.prepare(captions, "query"), encoder.prepare(images, "target")


def gradients(encoder: Encoder) -> Tensor:
    """All gradients as one vector, which are then removed."""
    flat = torch.cat([p.grad.flatten() for p in encoder.parameters() if p.requires_grad])
    encoder.zero_grad()
    return flat


def plain_step(encoder: Encoder, queries: list[Prepared], targets: list[Prepared]) -> None:
    """One big batch."""
    info_nce(encoder(queries), encoder(targets)).backward()


def cached_step(encoder: Encoder, queries: list[Prepared], targets: list[Prepared]) -> None:
    """The same in chunks."""
    GradCache(encoder, info_nce, CHUNK).step(queries, targets)


def theirs_step(encoder: Encoder, queries: list[Prepared], targets: list[Prepared]) -> None:
    """sentence-transformers' cached loss over our encoder."""
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    class Model(torch.nn.Module):
        """What the loss calls: features in, a dictionary with the embeddings out."""

        def forward(self, features: dict) -> dict:
            return {"sentence_embedding": encoder([features["items"][i] for i in features["input_ids"].tolist()])}

    class Loss(CachedMultipleNegativesRankingLoss):
        """Chunks are slices of row numbers; the items travel along."""

        def embed_minibatch(self, sentence_feature: dict, begin: int, end: int, **options: object) -> tuple:
            chunk = {"input_ids": sentence_feature["input_ids"][begin:end], "items": self.items[id(sentence_feature)]}
            with torch.set_grad_enabled(options.get("with_grad", False)):
                return self.model(chunk)["sentence_embedding"], None

    loss = Loss(torch.nn.Sequential(Model()), scale=1 / TEMPERATURE, mini_batch_size=CHUNK)
    features = [{"input_ids": torch.arange(len(one))} for one in (queries, targets)]
    loss.items = {id(feature): one for feature, one in zip(features, (queries, targets), strict=True)}
    loss(features, None).backward()


STEPS = {"plain": plain_step, "cached": cached_step, "sentence_transformers": theirs_step}


def peak_memory(kind: str, count: int) -> int:
    """MiB that a step adds at its peak; run in a process of its own, on Linux."""
    encoder = encoder_with_adapter()
    STEPS[kind](encoder, *caption_pairs(encoder, 4))
    encoder.zero_grad()
    batch = caption_pairs(encoder, count)
    reset_peak_memory()
    before = memory_mib("VmRSS")
    STEPS[kind](encoder, *batch)
    return round(memory_mib() - before)


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=512)
    options = parser.parse_args()
    encoder = encoder_with_adapter()
    batch = caption_pairs(encoder, options.pairs)
    seconds: dict[str, list[float]] = {kind: [] for kind in STEPS}
    found: dict[str, Tensor] = {}
    for _ in range(options.repeats + 1):  # the first one warms up
        for kind, step in STEPS.items():
            started = time.perf_counter()
            step(encoder, *batch)
            seconds[kind].append(time.perf_counter() - started)
            found[kind] = gradients(encoder)
    ratios = {kind: np.array(seconds[kind][1:]) / np.array(seconds["plain"][1:]) for kind in STEPS}
    scale = found["plain"].abs().max()
    sizes = [options.pairs // 4, options.pairs // 2, options.pairs, options.pairs * 2]
    memory: dict[str, dict[int, int]] = {"plain": {}, "cached": {}}
    for kind, by_size in memory.items():
        for size in sizes:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                by_size[size] = pool.apply(peak_memory, (kind, size))
    record = {
        "pairs": options.pairs,
        "chunk_size": CHUNK,
        "seconds_median": {kind: round(float(np.median(times[1:])), 3) for kind, times in seconds.items()},
        "times_plain_median": {kind: round(float(np.median(one)), 3) for kind, one in ratios.items()},
        "times_plain_each_repeat": {kind: np.round(one, 2).tolist() for kind, one in ratios.items()},
        "operations_times_plain": round(1 + (1 - CHUNK / (2 * options.pairs)) / 2, 3),
        "largest_gradient_difference_relative": {
            kind: float((found[kind] - found["plain"]).abs().max() / scale) for kind in STEPS if kind != "plain"
        },
        "peak_memory_above_inputs_mib_by_pairs": memory,
        "cpu": processor_name(),
        "threads": torch.get_num_threads(),
        **environment(),
    }
    print(json.dumps(record, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
