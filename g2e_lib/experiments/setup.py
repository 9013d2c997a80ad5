"""Notebook 00: the benchmark, the base model, and what both are like."""

from typing import Any

from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.generate import replies
from g2e_lib.experiments import benchmarks
from g2e_lib.experiments.benchmarks import Benchmark
from g2e_lib.experiments.settings import SetupSettings
from g2e_lib.glyphworld import gallery
from g2e_lib.glyphworld.benchmark import Size
from g2e_lib.glyphworld.pretraining import competence, pretrain
from g2e_lib.project import config, store
from g2e_lib.project.provenance import Run
from g2e_lib.project.results import Results

SHOWN = ("ObjectName", "RelationQA", "Edited", "CropByRelation")  # datasets of GlyphWorld whose rows are drawn


def prepare_benchmark(results: Results, settings: SetupSettings) -> tuple[Benchmark, str]:
    """See benchmarks.prepare_benchmark."""
    size, selection = Size(**settings.size()), benchmarks.Selection(**settings.selection())
    return benchmarks.prepare_benchmark(settings.world, size, selection, settings.broken_images, results.is_fresh)


def open_base_model(settings: SetupSettings) -> tuple[Embedder, dict[str, Any], list[dict[str, Any]]]:
    """The base model, trained anew if asked; returns it with the facts and the log of its training."""
    folder, is_embedded = config.resolve_model(settings.model), settings.world == "glyphworld"
    if settings.retrain:
        folder = pretrain.pretrain(pretrain.Recipe(seed=settings.seed), config.CACHE / "base_model")
    facts, log = pretrain.read_training_record(folder) if is_embedded else ({"checkpoint": settings.model}, [])
    return Embedder.from_pretrained(folder, prompt="none"), facts, log


def run(results: Results, settings: SetupSettings, bench: Benchmark) -> dict[str, Any]:
    """Ask the base model what it can do, and store `setup`, `gallery` (with pictures) and `benchmarks`.

    Returns what is stored as `setup`, without provenance. Questions are about GlyphWorld: with other data none are
    asked, and `competence` is empty.
    """
    is_embedded = settings.world == "glyphworld"
    embedder, training, log = open_base_model(settings)
    rows, facts = bench.load()
    given = {"questions_per_kind": settings.questions_per_kind, "seed": settings.seed, **bench.settings}
    on, precision = str(embedder.device), str(embedder.model.dtype).removeprefix("torch.")
    record = Run(given, embedder.identity, bench.identity(), settings.seed, on, precision)
    asked = (embedder, results.store("results"), "validation", settings.questions_per_kind, settings.seed)
    found = {
        "benchmark": bench.settings,
        "model": settings.model,
        "datasets": facts,
        "training": training,
        "learning": log,
        "competence": competence.competence_cached(*asked) if is_embedded else [],
        "gates": competence.GATES,
        "base_models": store.read_json(pretrain.BASE_MODELS, made_by="git checkout"),
        "replies": replies(embedder, gallery.example_questions(settings.seed)),
    }
    results.save("setup", found, record, max(fact["queries"] for fact in facts.values()))
    shown = SHOWN if is_embedded else list(rows)[:4]
    tiles = gallery.save_gallery(rows, shown, results.folder, settings.seed, is_embedded)
    results.save("gallery", tiles, record, len(tiles["rows"]))
    measured = {path.stem: store.read_json(path, "benchmarks/") for path in sorted(config.BENCHMARKS.glob("*.json"))}
    results.save("benchmarks", measured, record, len(measured))
    return found
