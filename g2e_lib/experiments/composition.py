"""Notebook 06: SugarCrepe and SugarCrepe++, with the models that notebooks 03 and 05 have trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from g2e_lib.embedder import Embedder
from g2e_lib.evaluation import sugarcrepe
from g2e_lib.experiments import unime
from g2e_lib.experiments.settings import CompositionSettings, UnimeSettings
from g2e_lib.experiments.study import Study
from g2e_lib.project.provenance import Run
from g2e_lib.project.results import Results


def open_models(results: Results, settings: CompositionSettings) -> tuple[Study, dict[str, Callable[[], Embedder]]]:
    """A study, and the models to compare by key: the base model under each prompt, then the methods of notebook 05.

    Embedders are made when called; what is not trained yet is trained then, with `seed` of the settings.
    """
    of_unime = replace(UnimeSettings.of(results), launch=settings.launch)
    study, methods, _ = unime.open_study(results, of_unime, retrains=False)  # notebook 05 has, if asked
    methods.pop("unime_2")
    make, seed = study.embedder, settings.seed
    models = {f"zero_shot:{prompt}": partial(make, None, seed, prompt) for prompt in settings.prompts}
    return study, models | {key: partial(make, method, seed) for key, method in methods.items()}


def baselines(prompts: Sequence[str]) -> list[str]:
    """What all later methods are compared with: the papers' prompts without training, plain training, and SaHa."""
    untrained = [f"zero_shot:{prompt}" for prompt in ("none", "hierarchical", unime.PROMPT) if prompt in prompts]
    return [*untrained, "in_batch_no_prompt", "in_batch", "saha"]


def run(
    results: Results, settings: CompositionSettings, study: Study, models: Mapping[str, Callable[[], Embedder]]
) -> dict[str, Any]:
    """Score all models, compare them row by row, and store `sugarcrepe` with pictures of what is got wrong.

    Returns what is stored, without provenance: see evaluation.sugarcrepe.compare_models.
    """
    sets, identity = study.bench.crepe(settings.crepe_rows)
    given = study.settings.record() | settings.record()
    record = Run(given, study.weights, identity, settings.seed, *study.device_and_dtype())
    chosen = baselines(settings.prompts)
    found, scores = sugarcrepe.compare_models(models, sets, chosen, results.store("embeddings"), settings.seed)
    worst = sugarcrepe.worst_rows(scores["sugarcrepe"], sets["sugarcrepe"])
    found["gallery"] = sugarcrepe.save_gallery(worst, results.folder)
    results.save("sugarcrepe", found, record, sum(len(rows) for subsets in sets.values() for rows in subsets.values()))
    return found
