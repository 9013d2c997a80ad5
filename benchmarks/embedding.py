"""How fast is Embedder.encode, against a plain loop and against the floor set by the model's matrix products?

Run with `python benchmarks/embedding.py`; writes benchmarks/embedding.json. All three are measured alternately in
one run, each part in a process of its own for its peak memory, and the result is a ratio: machines differ and are
shared. The plain loop is what a careful reader of the documentation would write: the processor item by item, batches
of 16 in arrival order, the full model call with logits and all hidden states.
"""

import argparse
import json
import multiprocessing
import random
import resource
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from g2e_lib.embedder import Embedder
from g2e_lib.glyphworld.world.language import long_caption, questions, short_caption
from g2e_lib.glyphworld.world.render import render
from g2e_lib.glyphworld.world.scenes import sample_scene
from g2e_lib.project.config import resolve_model
from g2e_lib.project.provenance import environment, processor_name
from g2e_lib.prompts import render as render_prompt

PROMPT, PLAIN_BATCH = "hierarchical", 16


def distinct_items(count: int) -> list[dict]:
    """Texts, images, and images with a question, a third each, all different, shuffled."""
    rng = random.Random("embedding benchmark")
    items: dict[tuple, dict] = {}
    while len(items) < count:
        scene, kind = sample_scene(rng, "train"), len(items) % 3
        image = None if kind == 0 else render(scene, rng.getrandbits(32))
        caption = (long_caption if rng.random() < 0.3 else short_caption)(scene, rng)[0]
        text = (caption, "", rng.choice(questions(scene, rng)).text)[kind]
        items[text, image and image.tobytes()] = {"text": text, "image": image}
    shuffled = list(items.values())
    rng.shuffle(shuffled)
    return shuffled


@torch.no_grad()
def plain_loop(model: torch.nn.Module, processor: object, items: list[dict]) -> np.ndarray:
    """Embeddings the plain way: (N, D) float32."""
    output = []
    for start in range(0, len(items), PLAIN_BATCH):
        ones = []
        for item in items[start : start + PLAIN_BATCH]:
            text = render_prompt(PROMPT, "query", item["text"], item["image"] is not None)
            images = [item["image"]] if item["image"] is not None else None
            ones.append(processor(text=[text], images=images, return_tensors="pt"))
        length = max(one["input_ids"].shape[1] for one in ones)
        batch = {}
        for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
            padded = [torch.nn.functional.pad(one[name], (0, length - one[name].shape[1])) for one in ones]
            batch[name] = torch.cat(padded)
        for name in ("pixel_values", "image_grid_thw"):
            if found := [one[name] for one in ones if name in one]:
                batch[name] = torch.cat(found)
        batch = {name: value.to(model.device) for name, value in batch.items()}
        states = model(**batch, output_hidden_states=True).hidden_states[-1]
        last = batch["attention_mask"].sum(1) - 1
        pooled = states[torch.arange(len(ones)), last].float()
        output.append(torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy())
    return np.concatenate(output)


def multiply_adds(embedder: Embedder, items: list[dict]) -> tuple[int, int, int]:
    """What the matrix products of language model and vision tower take, and the tokens of all items.

    The products inside attention, of scores and of values, are left out.
    """
    config, ids = embedder.model.config, [embedder.token_ids(item) for item in items]
    vision = sum(
        p.numel() for n, p in embedder.model.model.visual.named_parameters() if p.ndim > 1 and "merger" not in n
    )
    merger = sum(p.numel() for n, p in embedder.model.model.visual.merger.named_parameters() if p.ndim > 1)
    text = sum(p.numel() for n, p in embedder.model.model.language_model.layers.named_parameters() if p.ndim > 1)
    tokens = sum(map(len, ids))
    visual_tokens = sum(one.count(config.image_token_id) for one in ids)
    return tokens * text, visual_tokens * (4 * vision + merger), tokens


def floor_seconds(embedder: Embedder, items: list[dict]) -> tuple[float, float]:
    """The time of the model's matrix products alone, at the rate measured for one of them.

    Returns:
        Seconds, and the measured rate in multiply-adds a second.
    """
    config, products = embedder.model.config, sum(multiply_adds(embedder, items)[:2])
    hidden, width = config.text_config.hidden_size, config.text_config.intermediate_size
    x, weight = torch.randn(4096, hidden), torch.randn(width, hidden)
    times = []
    for _ in range(200):
        begun = time.perf_counter()
        torch.nn.functional.linear(x, weight)
        times.append(time.perf_counter() - begun)
    rate = 4096 * hidden * width / float(np.median(times))
    return products / rate, rate


def worker(name: str, count: int, repeats: int, pipe: object) -> None:
    """Measure one way in a process of its own; `name` is "plain" or "ours"."""
    items, folder = distinct_items(count), resolve_model("glyphworld-base")
    if name == "plain":
        processor = AutoProcessor.from_pretrained(folder)
        model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()

        def encode(some: list[dict]) -> np.ndarray:
            return plain_loop(model, processor, some)
    else:
        embedder = Embedder.from_pretrained(folder, prompt=PROMPT, device="cpu", dtype="float32")
        encode = embedder.encode
    encode(items[:64])  # first calls compile and allocate
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(repeats):
        pipe.recv()  # our turn
        begun = time.perf_counter()
        embeddings = encode(items)
        seconds = time.perf_counter() - begun
        bottom = floor_seconds(embedder, items) if name == "ours" else None
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pipe.send((seconds, embeddings, (peak - before) / 1024, peak / 1024, bottom))


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, measured = {}, {"plain": [], "ours": []}
    for name in measured:
        pipes[name], theirs = context.Pipe()
        context.Process(target=worker, args=(name, options.items, options.repeats, theirs), daemon=True).start()
    for _ in range(options.repeats):
        for name, pipe in pipes.items():
            pipe.send("go")
            measured[name].append(pipe.recv())
    best = {name: min(runs, key=lambda run: run[0]) for name, runs in measured.items()}
    difference = float(np.abs(best["plain"][1] - best["ours"][1]).max())
    ratios = [p[0] / o[0] for p, o in zip(measured["plain"], measured["ours"], strict=True)]
    floor, rate = min(run[4] for run in measured["ours"])
    result = {
        "items": options.items,
        "plain_items_per_second": round(options.items / best["plain"][0], 1),
        "ours_items_per_second": round(options.items / best["ours"][0], 1),
        "floor_items_per_second": round(options.items / floor, 1),
        "floor_rate_gflops": round(2 * rate / 1e9, 1),
        "times_faster_each_repeat": [round(ratio, 2) for ratio in ratios],
        "times_faster_median": round(float(np.median(ratios)), 2),
        "largest_difference": difference,
        "plain_peak_memory_mib": round(best["plain"][3]),
        "ours_peak_memory_mib": round(best["ours"][3]),
        "plain_peak_above_warm_mib": round(best["plain"][2]),
        "ours_peak_above_warm_mib": round(best["ours"][2]),
        "cpu": processor_name(),
        "threads": torch.get_num_threads(),
        **environment(),
    }
    print(json.dumps(result, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if difference > 1e-4:
        raise SystemExit(f"the embeddings differ by {difference:.1e}, more than 1e-4")


if __name__ == "__main__":
    main()
