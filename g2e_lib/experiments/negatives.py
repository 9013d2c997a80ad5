"""Notebook 02: which negatives are hard and still wrong?"""

from typing import Any

from g2e_lib import mining
from g2e_lib.data.subsets import Subset, data_digest, find_subset, load_subsets
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.negatives import compare_miners, explain_anchor
from g2e_lib.experiments.benchmarks import Benchmark, open_benchmark
from g2e_lib.experiments.settings import MiningSettings
from g2e_lib.miners import Miner
from g2e_lib.project.provenance import Run
from g2e_lib.project.results import Results


def open_model(results: Results, settings: MiningSettings) -> tuple[Benchmark, list[Subset], Embedder]:
    """The data that notebook 00 has prepared, the subsets that are mined, and the model to embed them with."""
    bench = open_benchmark(results)
    names, part = list(bench.training_facts(settings.subsets)), settings.picked("fraction", "limit")
    subsets = load_subsets(bench.root / "train", names, split=bench.split, **part)
    given = {**settings.picked("prompt", "device", "dtype"), **settings.embedding()}
    return bench, subsets, Embedder.from_pretrained(settings.model, **given)


def asked_miners(settings: MiningSettings) -> list[Miner]:
    """The miners that are compared."""
    return [Miner(name, settings.top_k, settings.pool_mult, seed=settings.seed) for name in settings.miners]


def provenance(settings: MiningSettings, subsets: list[Subset], embedder: Embedder) -> Run:
    """What the results of this notebook depend on."""
    given = settings.record() | {"subsets": [subset.name for subset in subsets]}
    on, precision = str(embedder.device), str(embedder.model.dtype)
    return Run(given, embedder.identity, data_digest(subsets), settings.seed, on, precision)


def explain(
    results: Results, settings: MiningSettings, bench: Benchmark, subsets: list[Subset], embedder: Embedder
) -> dict[str, Any]:
    """How one query gets its cluster, step by step; stores `mining_example` with its pictures."""
    record, subset = provenance(settings, subsets, embedder), find_subset(subsets, settings.shown_subset)
    sizes = settings.shown_top_k, settings.shown_pool_mult
    store, judge = results.store("embeddings"), bench.judge(subset)
    found = explain_anchor(embedder, subset, judge, settings.shown_row, *sizes, store, results.folder)
    results.save("mining_example", found, record, 1)
    return found


def run(
    results: Results, settings: MiningSettings, bench: Benchmark, subsets: list[Subset], embedder: Embedder
) -> dict[str, Any]:
    """Mine with every miner and judge the negatives; stores `mining`, `similarities` and the clusters of SaHa.

    Returns what is stored as `mining`, without provenance: see compare_miners.
    """
    record = provenance(settings, subsets, embedder)
    facts, judges = bench.training_facts(settings.subsets), {s.name: bench.judge(s) for s in subsets}
    found = compare_miners(embedder, subsets, facts, judges, asked_miners(settings), results.store("embeddings"))
    clusters, similarities = found.pop("clusters"), found.pop("similarities")
    count = sum(len(subset.pairs) for subset in subsets)
    results.save("mining", found, record, count)
    results.save("similarities", similarities, record, count)
    saha = Miner("saha", settings.top_k, settings.pool_mult)
    mining.save_clusters(results.folder / "clusters" / "saha.json", clusters, subsets, saha, embedder)
    return found
