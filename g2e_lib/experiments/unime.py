"""Notebook 05: UniME's stages under the same conditions as everything else, its filter, words and ablations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from g2e_lib.data.items import Item
from g2e_lib.evaluation.gap import image_text_pairs, modality_panels
from g2e_lib.evaluation.generate import compare_next_words
from g2e_lib.evaluation.negatives import NO_FILTER, judge_filter, margin_name
from g2e_lib.evaluation.scores import evaluate_mmeb
from g2e_lib.evaluation.statistics import estimate, estimate_mean
from g2e_lib.experiments.ablations import check_values, points
from g2e_lib.experiments.benchmarks import open_benchmark
from g2e_lib.experiments.settings import UnimeSettings
from g2e_lib.experiments.study import Method, Sentences, Study, main_methods
from g2e_lib.glyphworld.text_teacher import open_teacher
from g2e_lib.project.results import Results

PROMPT = "unime"
JUDGED = 1000  # held-out pairs of sentences by which a teacher is judged
OF_NEGATIVES = ("negative_similarity", "loss", "gradient_norm")  # what a training logs about its negatives


def open_study(
    results: Results, settings: UnimeSettings, retrains: bool | None = None
) -> tuple[Study, dict[str, Method], dict[str, Any]]:
    """A study, its methods by key (main_methods and unime_methods), and what is known of the text teacher.

    Raises:
        ValueError: notebook 00 has not run, or has not prepared what the settings name.
    """
    study = Study(results, open_benchmark(results), settings, retrains)
    held_out, pairs = study.bench.held_out_sentences(JUDGED), settings.teacher_pairs
    folder, teacher = open_teacher(study.cache, settings.teacher, pairs, held_out, study.embeddings)
    data, subset = study.bench.sentences(settings.sentence_pairs)
    stages = unime_methods(settings, Sentences(data, (subset,), str(folder)))
    return study, main_methods(settings) | stages, teacher


def unime_methods(settings: UnimeSettings, sentences: Sentences) -> dict[str, Method]:
    """UniME's stages alone and together, by key."""
    stage_1 = Method("unime_1", prompt=PROMPT, sentences=sentences, settings=settings.first_stage())
    stage_2 = Method("unime_2", prompt=PROMPT, settings=settings.second_stage())
    both = replace(stage_2, key="unime_1_2", start=stage_1)
    return {method.key: method for method in (stage_1, stage_2, both)}


def questions(both: Method, settings: UnimeSettings) -> dict[str, list[Method]]:
    """As ablations.questions, with both stages as the base; ValueError if a stage is unknown."""

    def changed(**settings: Any) -> dict[str, Any]:  # noqa: ANN401
        return {"settings": {**both.settings, **settings}}

    stages = {
        "both": {},
        "stage_1": {"settings": both.start.settings, "sentences": both.start.sentences, "start": None},
        "stage_2": {"start": None},
        "neither": {"settings": {}, "start": None},
    }
    changes = {
        "margin": lambda value: changed(margin=value),
        "num_negatives": lambda value: changed(num_negatives=value),
        "negatives": lambda value: changed(negatives=value),
        "stages": lambda value: stages[value],
    }
    check_values("stage", settings.ablate_stages, stages)
    return points(replace(both, key="base"), settings.points(), changes)


def run(
    results: Results, settings: UnimeSettings, study: Study, methods: Mapping[str, Method], teacher: Mapping[str, Any]
) -> dict[str, Any]:
    """Measure everything; stores `unime`, `unime_ablations` and `modality_gap_trained`, and returns the first."""
    record = study.provenance()
    methods = {key: method for key, method in methods.items() if key != "topk"}
    found = {"teacher": teacher, **compare_stages(study, methods)}
    ablations = run_ablations(results, settings, study, methods)
    found |= compare_negatives(ablations)
    retrieval = study.bench.retrieval(settings.retrieval_pairs)
    found |= {"retrieval": score_retrieval(study, methods, retrieval), "retrieval_name": study.bench.retrieval_name}
    found |= {"filter": judge_stages(settings, study, methods), "filter_used": margin_name(settings.margin)}
    pairs = image_text_pairs(retrieval["short_i2t"], settings.word_pairs)
    found["next_words"] = next_words(study, methods, pairs)
    panels = trained_panels(study, methods, settings.gap_arms, pairs)
    results.save("modality_gap_trained", {"panels": panels}, record, settings.word_pairs)
    results.save("unime", found, record, study.queries)
    return found


def compare_stages(study: Study, methods: Mapping[str, Method]) -> dict[str, Any]:
    """UniME's stages beside other methods, every one against all before it; stage 1 first, because it uses no pairs."""
    records = {"zero_shot_unime": [study.zero_shot(PROMPT)]}
    records |= study.run_all(sorted(methods.values(), key=lambda method: method.sentences is None))
    return study.compare(records, list(records)[:-1], study.settings.seed)


def run_ablations(
    results: Results, settings: UnimeSettings, study: Study, methods: Mapping[str, Method]
) -> dict[str, Any]:
    """All points against both stages, with fewer steps and queries; stores `unime_ablations`: see Study.ask."""
    steps = settings.ablation_steps
    fewer = replace(settings, limit=settings.ablation_limit, steps=steps, warmup_steps=steps // 10)
    small, both = Study(results, study.bench, fewer), methods["unime_1_2"]
    record = study.provenance()
    found = small.ask(replace(both, key="base"), questions(both, settings))
    results.save("unime_ablations", found, record, small.queries)
    return found


def compare_negatives(ablations: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How training goes with hard, random and easy negatives, from the ablations' question "negatives".

    Returns:
        By kind of negatives `negatives`, the logs of every seed; `negatives_means`, estimates by field over the steps
        (means over seeds); `negatives_differences`, what hard ones have more than each other kind, paired by step.
    """
    keys = {key.partition("=")[2]: key for key in ablations["questions"].get("negatives", ())}
    logs = {kind: ablations["methods"][key]["log"] for kind, key in keys.items()}
    values = {
        kind: {name: np.mean([[step[name] for step in log] for log in some], axis=0) for name in OF_NEGATIVES}
        for kind, some in logs.items()
    }

    def means(kind: str, less: str = "") -> dict[str, Any]:
        of_kind = values[kind].items()
        return {name: vars(estimate_mean(found - values[less][name] if less else found)) for name, found in of_kind}

    differences = {kind: means("hard", less=kind) for kind in values if kind != "hard" and "hard" in values}
    averages = {kind: means(kind) for kind in values}
    return {"negatives": logs, "negatives_means": averages, "negatives_differences": differences}


def score_retrieval(
    study: Study, methods: Mapping[str, Method], retrieval: Mapping[str, Sequence[Any]]
) -> dict[str, dict[str, Any]]:
    """Recall at 1 in percent, an estimate by method and name of the rows; first the base model under UniME's prompt."""
    scores = {}
    for key, method in {"zero_shot_unime": None, **methods}.items():
        embedder = study.embedder(method, prompt="" if method else PROMPT)
        right = evaluate_mmeb(embedder, retrieval, study.embeddings)
        scores[key] = {task: vars(estimate({task: values})) for task, values in right.items()}
    return scores


def judge_stages(settings: UnimeSettings, study: Study, methods: Mapping[str, Method]) -> dict[str, Any]:
    """What the filter does in truth as stage 2 begins and as it ends; see judge_filter."""
    subsets, margins = study.training_subsets(), [settings.margin, NO_FILTER]
    judges = [study.bench.judge(subset) for subset in subsets]
    batches = settings.filter_batches, settings.pairs_per_step
    moments = {"as stage 2 begins": methods["unime_1"], "as stage 2 ends": methods["unime_1_2"]}
    return {
        moment: judge_filter(
            study.embedder(method), subsets, judges, margins, settings.num_negatives, batches, study.embeddings
        )
        for moment, method in moments.items()
    }


def next_words(study: Study, methods: Mapping[str, Method], pairs: Sequence[tuple[Item, Item]]) -> list[dict[str, Any]]:
    """What the model would say next, before and after its stages, under UniME's prompt; see compare_next_words."""
    told = {"before training": None, "after stage 1": methods["unime_1"], "after stage 2": methods["unime_1_2"]}
    records = []
    for name, method in told.items():
        embedder = study.embedder(method, prompt=PROMPT)
        (found,) = compare_next_words(embedder, [PROMPT], pairs, study.embeddings)
        records.append({"model": name, **found})
    return records


def trained_panels(
    study: Study, methods: Mapping[str, Method], keys: Sequence[str], pairs: Sequence[tuple[Item, Item]]
) -> dict[str, dict[str, Any]]:
    """By method modality_panels after training; ValueError if one of `keys` is not among the methods."""
    check_values("method", keys, methods)
    panels = {}
    for key in keys:
        prompt, embedder = methods[key].prompt, study.embedder(methods[key])
        panels[key] = modality_panels(embedder, [prompt], pairs, study.embeddings)[prompt]
    return panels
