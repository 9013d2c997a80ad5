"""Qwen2-VL-2B at full size with random weights: embedding, a training step and mining, on the GPU that is here.

    python benchmarks/h200.py --tokenizer FOLDER --output benchmarks/results/h200.json

FOLDER holds Qwen2's vocab.json and merges.txt; without it the embedded model's tokenizer makes other, longer ids.
Inputs are the size of real photos and texts. On a CPU, or with --reduced, everything runs with a tiny model and few
items: that shows that the script works and says nothing about speed. Nothing is written without --output.
"""

import argparse
import gc
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from embedding import multiply_adds, plain_loop
from peft import LoraConfig, get_peft_model
from PIL import Image
from transformers import AutoTokenizer, Qwen2Tokenizer, Qwen2VLConfig, Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from g2e_lib.backbone.checkpoint import default_attention
from g2e_lib.backbone.images import ImageRule
from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.backbone.qwen2vl import PACKED_ATTENTION
from g2e_lib.embedder import Embedder, Encoder
from g2e_lib.gradcache import GradCache, info_nce
from g2e_lib.project.config import resolve_model
from g2e_lib.project.provenance import environment, processor_name
from g2e_lib.project.store import write_json
from g2e_lib.saha import mine_clusters
from g2e_lib.scale.costs import PEAK_FLOPS
from g2e_lib.train_config import LANGUAGE_LAYERS

ADDED = "im_start im_end object_ref_start object_ref_end box_start box_end quad_start quad_end vision_start vision_end"
ADDED += " vision_pad image_pad video_pad"
SIZES = {  # hidden, intermediate, layers, heads, key-value heads, vision depth, vision width, vision heads, rope
    "full": (1536, 8960, 28, 12, 2, 32, 1280, 16, [16, 24, 24]),
    "reduced": (32, 64, 2, 2, 1, 2, 32, 2, [2, 3, 3]),
}
PHOTO_SIZES = ((640, 480), (480, 640), (640, 427), (500, 375), (1024, 683))


def build_embedder(size: str, tokenizer_folder: str, device: str) -> Embedder:
    """A Qwen2-VL of that size with random weights, as an embedder."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model("glyphworld-base"))
    if tokenizer_folder:
        extra = [f"<|{name}|>" for name in ADDED.split()]
        tokenizer = Qwen2Tokenizer.from_pretrained(
            tokenizer_folder, pad_token="<|endoftext|>", extra_special_tokens=extra
        )
    hidden, inner, layers, heads, shared, depth, width, vision_heads, rope = SIZES[size]
    ids = tokenizer.convert_tokens_to_ids
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 151936, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
            "num_attention_heads": heads, "num_key_value_heads": shared, "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": rope},
        },
        vision_config={"depth": depth, "embed_dim": width, "hidden_size": hidden, "num_heads": vision_heads},
        image_token_id=ids("<|image_pad|>"), video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"), tie_word_embeddings=True,
    )  # fmt: skip
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    attention = default_attention(device, str(dtype).removeprefix("torch."))
    parts = {"text_config": attention, "vision_config": PACKED_ATTENTION if attention == "sdpa" else attention}
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2VLForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation=parts)
    processor = G2EProcessor(Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 1003520}), tokenizer)
    return Embedder(model, processor, "hierarchical", tokens_per_batch=32768 if size == "full" else 2048)


def make_items(kind: str, count: int, scale: float) -> list[dict]:
    """Distinct items: "text", "image" or "mix" (texts, images and both, a third each); photos times `scale`."""
    rng, words = random.Random(kind), ("a", "red", "bus", "stands", "before", "an", "old", "station", "in", "rain")
    noise, items = np.random.default_rng(0), []
    for number in range(count):
        what = {"text": 0, "image": 1, "mix": number % 3}[kind]
        width, height = (round(side * scale) for side in rng.choice(PHOTO_SIZES))
        coarse = noise.integers(0, 256, size=(height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
        image = None if what == 0 else Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        text = "" if what == 1 else " ".join([str(number), *rng.choices(words, k=rng.randint(8, 60))])
        items.append({"text": text, "image": image})
    return items


def timed(function: Callable[[], object], device: str) -> tuple[float, object]:
    """Seconds of one call, all work of the device included, and what it returned."""
    if device != "cpu":
        torch.cuda.synchronize()
    begun = time.perf_counter()
    result = function()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - begun, result


def peak_rate(device: str) -> tuple[float, str]:
    """Floating-point operations a second at best, and where the number comes from."""
    name = torch.cuda.get_device_name() if device != "cpu" else ""
    for known, flops in PEAK_FLOPS.items():
        if known in name:
            return flops, f"published for {known}, bfloat16"
    x = torch.randn(1024, 1024, device=device)
    seconds = min(timed(lambda: x @ x, device)[0] for _ in range(20))
    return 2 * 1024**3 / seconds, "measured on a product of two matrices of 1024 x 1024, float32"


def measure_embedding(embedder: Embedder, count: int, scale: float, repeats: int) -> dict:
    """Ours against the plain loop, alternately; nominal utilisation counts every item's tokens."""
    device, (peak, _), results = embedder.device.type, peak_rate(embedder.device.type), {}
    for kind in ("text", "image", "mix"):
        items = make_items(kind, count, scale)
        language, vision, tokens = multiply_adds(embedder, items)
        products = language + vision
        ways = {
            "ours": lambda some=items: embedder.encode(some),
            "plain": lambda some=items: plain_loop(embedder.model, embedder.processor, some),
        }
        for way in ways.values():
            way(items[:16])
        seconds = {name: [timed(way, device)[0] for _ in range(repeats)] for name, way in ways.items()}
        ours, plain = (min(seconds[name]) for name in ("ours", "plain"))
        results[kind] = {
            "items": count,
            "tokens": tokens,
            "ours_items_per_second": round(count / ours, 1),
            "ours_tokens_per_second": round(tokens / ours),
            "ours_utilisation": round(2 * products / ours / peak, 4),
            "plain_items_per_second": round(count / plain, 1),
            "plain_utilisation": round(2 * products / plain / peak, 4),
            "times_faster": round(plain / ours, 2),
        }
    return results


def measure_training(embedder: Embedder, batches: list[int], chunk_size: int, scale: float) -> dict:
    """One gradient-cached LoRA step on images and texts, after a first one that allocates."""
    device, (peak, _), results = embedder.device.type, peak_rate(embedder.device.type), {}
    adapted = get_peft_model(embedder.model, LoraConfig(r=8, lora_alpha=64, target_modules=LANGUAGE_LAYERS))
    encoder = Encoder(embedder)
    cache = GradCache(encoder, lambda q, t: info_nce(q, t, None, 0.02), chunk_size)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], lr=5e-5)
    for pairs in batches:
        queries, targets = make_items("image", pairs, scale), make_items("text", pairs, scale)

        def step(queries: list = queries, targets: list = targets) -> float:
            prepared = encoder.prepare(queries, "query"), encoder.prepare(targets, "target")
            loss = cache.step(*prepared)
            optimizer.step()
            optimizer.zero_grad()
            return float(loss)

        step()
        if device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        seconds, loss = timed(step, device)
        language, vision, tokens = multiply_adds(embedder, queries + targets)
        results[f"{pairs} pairs"] = {
            "chunk_size": chunk_size,
            "tokens": tokens,
            "seconds": round(seconds, 3),
            "pairs_per_second": round(pairs / seconds, 1),
            "peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if device != "cpu" else None,
            # The language model forward twice, and backward to activations only, for its weights are frozen as the
            # vision tower is, which runs once.
            "utilisation": round(2 * (3 * language + vision) / seconds / peak, 4),
            "loss": round(loss, 4),
        }
    return results


def measure_mining(count: int, dimension: int, device: str) -> dict:
    """SaHa on random unit vectors in loose groups, from arrays to clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(count // 50 + 1, dimension)).astype(np.float32)
    queries, targets = (
        centres[rng.integers(0, len(centres), count)] + rng.normal(size=(count, dimension)).astype(np.float32)
        for _ in range(2)
    )
    queries, targets = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (queries, targets))
    seconds, clusters = timed(lambda: mine_clusters(queries, targets, np.arange(count), device=device), device)
    facts = {"queries": count, "targets": count, "dimension": dimension, "clusters": len(clusters)}
    return {**facts, "seconds": round(seconds, 2)}


def main() -> None:
    """Measure, print, and write where told."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokenizer", default="", help="folder of Qwen2's vocab.json and merges.txt")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--reduced", action="store_true", help="tiny model and few items, whatever is here")
    parser.add_argument("--only", nargs="*", default=["embedding", "training", "mining"])
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    is_reduced = options.reduced or device == "cpu"
    size, count, scale = ("reduced", 24, 0.15) if is_reduced else ("full", 1536, 1.0)
    peak, source = peak_rate(device)
    result: dict = {
        "model": "Qwen2-VL of a few layers, random" if is_reduced else "Qwen2-VL-2B, random weights",
        "is_reduced": is_reduced,
        "tokenizer": "Qwen2" if options.tokenizer else "embedded",
        "device": torch.cuda.get_device_name() if device != "cpu" else processor_name(),
        "peak_flops": peak,
        "peak_from": source,
        **environment(),
    }
    embedder = build_embedder(size, options.tokenizer, device)
    result["attention"] = embedder.model.config.text_config._attn_implementation
    if "embedding" in options.only:
        result["embedding"] = measure_embedding(embedder, count, scale, repeats=1 if is_reduced else 3)
    if "training" in options.only:
        embedder.images = ImageRule(square=56 if is_reduced else 448)
        result["training"] = measure_training(
            embedder, [4, 8] if is_reduced else [256, 1024], 2 if is_reduced else 32, scale
        )
    del embedder
    gc.collect()
    if "mining" in options.only:
        result["mining"] = measure_mining(*((1500, 32) if is_reduced else (100_000, 1536)), device)
    print(json.dumps(result, indent=1))
    if options.output:
        write_json(options.output, result)


if __name__ == "__main__":
    main()
