"""Notebook 01: does a prompt alone turn a generator into an embedder?"""

from typing import Any

from g2e_lib.data.items import Item
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation import attention, gap, generate, scores
from g2e_lib.experiments.benchmarks import Benchmark, open_benchmark
from g2e_lib.experiments.settings import ZeroShotSettings
from g2e_lib.project.provenance import Run
from g2e_lib.project.results import Results


def open_model(results: Results, settings: ZeroShotSettings) -> tuple[Benchmark, Embedder]:
    """The data that notebook 00 has prepared, and the model to embed them with."""
    given = {"adapter": settings.adapter or None, **settings.picked("device", "dtype"), **settings.embedding()}
    return open_benchmark(results), Embedder.from_pretrained(settings.model, **given)


def caption_pairs(settings: ZeroShotSettings, bench: Benchmark) -> list[tuple[Item, Item]]:
    """Images with their captions, for the modality gap, the next words and attention."""
    captions = bench.load([bench.captions])[0][bench.captions]
    return gap.image_text_pairs(captions, settings.gap_pairs)


def run(results: Results, settings: ZeroShotSettings, bench: Benchmark, embedder: Embedder) -> dict[str, Any]:
    """Measure all prompts; stores `zero_shot`, `modality_gap`, `next_words` and `attention`.

    Returns what is stored as `zero_shot`, without provenance: see scores.score_prompts.
    """
    cache, (rows, facts) = results.store("embeddings"), bench.load(settings.datasets, settings.limit)
    given = settings.record() | {"datasets": list(rows)}
    on, precision = str(embedder.device), str(embedder.model.dtype)
    record = Run(given, embedder.identity, bench.identity(), settings.seed, on, precision)
    found = scores.score_prompts(embedder, settings.prompts, rows, facts, cache, seed=settings.seed)
    results.save("zero_shot", found, record, sum(map(len, rows.values())))
    pairs = caption_pairs(settings, bench)
    panels = gap.modality_panels(embedder, settings.gap_prompts, pairs, cache)
    results.save("modality_gap", {"panels": panels}, record, settings.gap_pairs)
    words = generate.compare_next_words(embedder, settings.prompts, pairs, cache, settings.top_words)
    results.save("next_words", {"prompts": words}, record, settings.gap_pairs)
    shares = attention.compare_attention(embedder, settings.gap_prompts, pairs[: settings.attention_pairs], cache)
    results.save("attention", {"prompts": shares}, record, settings.attention_pairs)
    return found
