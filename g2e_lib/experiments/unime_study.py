"""UniME against the others under the same conditions: its arms, its retrieval, its next words, its ablations."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from g2e_lib.data.items import EvalRow, Item
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.gap import modality_panels
from g2e_lib.evaluation.generate import compare_next_words
from g2e_lib.evaluation.scores import evaluate_mmeb
from g2e_lib.evaluation.statistics import estimate, estimate_mean
from g2e_lib.experiments.study import Arm, Laboratory, Sentences, compare_arms, main_arms, run_arms

PROMPT = "unime"
STAGE_1, STAGE_2, BOTH = "UniME stage 1", "UniME stage 2 alone", "UniME stage 1 + 2"
ZERO_SHOT = "zero-shot, UniME's prompt"

NO_FILTER = 2.0  # no two cosines differ by more


def margin_name(margin: float) -> str:
    """What a value of beta is called in tables.

    >>> margin_name(0.1), margin_name(2)
    ('beta = 0.1', 'no filter')
    """
    return "no filter" if margin >= NO_FILTER else f"beta = {margin}"


def unime_arms(sentences: Sentences, first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Arm]:
    """UniME's stages alone and together, by name.

    Args:
        sentences: what stage 1 learns from.
        first: settings of stage 1 that differ from the common ones.
        second: likewise of stage 2, such as `margin`.
    """
    stage_1 = Arm(STAGE_1, prompt=PROMPT, sentences=sentences, settings=first)
    settings = {"negatives": "hard", **second}
    stage_2 = Arm(STAGE_2, prompt=PROMPT, settings=settings)
    return {STAGE_1: stage_1, STAGE_2: stage_2, BOTH: Arm(BOTH, prompt=PROMPT, settings=settings, start=stage_1)}


def run_rivals(laboratory: Laboratory, arms: Mapping[str, Arm], seeds: int, seed: int = 0) -> dict[str, Any]:
    """UniME's stages beside other ways of training: what compare_arms returns, every arm against all before it.

    Args:
        laboratory: with the settings shared by all, such as steps and pairs a step.
        arms: from methods.open_methods; stage 1 is shown first, because it uses no pairs.
        seeds: runs of each.
        seed: of the bootstrap.
    """
    records = {ZERO_SHOT: [laboratory.zero_shot(PROMPT)]}
    order = sorted(arms.values(), key=lambda arm: arm.sentences is None)
    records |= run_arms(laboratory, order, seeds)
    return compare_arms(records, laboratory.rows, laboratory.facts, list(records)[:-1], seed)


def unime_questions(both: Arm, points: Mapping[str, Sequence[Any]]) -> dict[str, list[Arm]]:
    """One list of arms a question; every arm differs from stage 1 + 2 in one thing.

    Args:
        both: the base.
        points: values by question: margin, num_negatives, negatives, and stages ("both", "stage 1", "stage 2",
            "neither": in-batch negatives and the same prompt).

    Raises:
        ValueError: an unknown question or stage.
    """

    def changed(name: str, **settings: Any) -> Arm:  # noqa: ANN401
        return Arm(name, prompt=both.prompt, settings={**both.settings, **settings}, start=both.start)

    stages = {
        "both": both,
        "stage 1": both.start,
        "stage 2": Arm("stage 2 alone", prompt=both.prompt, settings=both.settings),
        "neither": Arm("neither stage: in-batch", prompt=both.prompt),
    }
    make = {
        "margin": lambda v: changed(margin_name(v), margin=float(v)),
        "num_negatives": lambda v: changed(f"k = {v}", num_negatives=v),
        "negatives": lambda v: changed(f"{v} negatives", negatives=v),
        "stages": lambda v: stages[v],
    }
    arms: dict[str, list[Arm]] = {}
    for question, values in points.items():
        if question not in make:
            raise ValueError(f"unknown ablation {question!r}: choose among {', '.join(make)}")
        if question == "stages" and (unknown := [value for value in values if value not in stages]):
            raise ValueError(f"unknown stage {unknown[0]!r}: choose among {', '.join(stages)}")
        if values:
            arms[question] = [make[question](value) for value in values]
    return arms


NEGATIVES_FIELDS = ("negative_similarity", "loss", "gradient_norm")


def compare_negatives(ablations: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """How training goes with hard, random and easy negatives (UniME's comparison).

    Args:
        ablations: what run_ablations returned for the question "negatives".

    Returns:
        By kind of negatives `negatives`, the logs of every seed; `negatives_means`, estimates by field over the steps
        (means over seeds); `negatives_differences`, what hard ones have more than each other kind, paired by step.
    """
    names = {name.removesuffix(" negatives"): name for name in ablations["questions"].get("negatives", ())}
    logs = {order: ablations["arms"][name]["log"] for order, name in names.items()}
    values = {
        order: {f: np.mean([[record[f] for record in log] for log in some], axis=0) for f in NEGATIVES_FIELDS}
        for order, some in logs.items()
    }
    means = {o: {f: vars(estimate_mean(v)) for f, v in one.items()} for o, one in values.items()}
    differences = {
        order: {f: vars(estimate_mean(values["hard"][f] - v)) for f, v in one.items()}
        for order, one in values.items()
        if order != "hard" and "hard" in values
    }
    return {"negatives": logs, "negatives_means": means, "negatives_differences": differences}


def score_retrieval(
    laboratory: Laboratory,
    arms: Mapping[str, Arm],
    retrieval: Mapping[str, Sequence[EvalRow]],
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """Recall at 1 of captions by images and images by captions, of the base model under UniME's prompt and of arms.

    Args:
        laboratory: trains what is not trained yet.
        arms: by name.
        retrieval: rows by name, from sentences.prepare_retrieval.
        seed: of training.

    Returns:
        By arm and name of the rows an estimate in percent.
    """
    scores = {}
    for name, arm in {ZERO_SHOT: None, **arms}.items():
        embedder = laboratory.embedder(arm, seed, arm.prompt if arm else PROMPT)
        right = evaluate_mmeb(embedder, retrieval, laboratory.embeddings)
        scores[name] = {task: vars(estimate({task: values})) for task, values in right.items()}
    return scores


def next_words(
    laboratory: Laboratory, arms: Mapping[str, Arm | None], pairs: Sequence[tuple[Item, Item]], top_k: int = 5
) -> list[dict[str, Any]]:
    """What the model would say next, before and after its stages, under UniME's prompt; see compare_next_words.

    Args:
        laboratory: trains what is not trained yet.
        arms: None is the model before training.
        pairs: (image, caption); the first is the example.
        top_k: how many words.
    """
    records = []
    for name, arm in arms.items():
        (record,) = compare_next_words(
            laboratory.embedder(arm, prompt=PROMPT), [PROMPT], pairs, laboratory.embeddings, top_k
        )
        records.append({"model": name, **record})
    return records


def trained_panels(
    laboratory: Laboratory, arms: Mapping[str, Arm], names: Sequence[str], pairs: Sequence[tuple[Item, Item]]
) -> dict[str, dict[str, Any]]:
    """The modality gap after training, in the form of modality_panels, by arm.

    Raises:
        ValueError: one of `names` is not among the arms.
    """
    if unknown := [name for name in names if name not in arms]:
        raise ValueError(f"there is no method {unknown[0]!r}: choose among {', '.join(arms)}")
    panels = {}
    for name in names:
        prompt, embedder = arms[name].prompt, laboratory.embedder(arms[name])
        panels[name] = modality_panels(embedder, [prompt], pairs, laboratory.embeddings)[prompt]
    return panels


def crepe_embedders(
    laboratory: Laboratory, prompts: Sequence[str], arms: Mapping[str, Arm], seed: int = 0
) -> dict[str, Callable[[], Embedder]]:
    """What SugarCrepe compares, by name and made when called: the base model under each prompt, then every arm."""
    base = {f"zero-shot: {prompt}": partial(laboratory.embedder, None, seed, prompt) for prompt in prompts}
    return base | {name: partial(laboratory.embedder, arm, seed) for name, arm in arms.items()}


def crepe_baselines(prompts: Sequence[str]) -> list[str]:
    """What all later methods are compared with: the papers' prompts without training, plain training, and SaHa."""
    untrained = [f"zero-shot: {prompt}" for prompt in ("none", "hierarchical", PROMPT) if prompt in prompts]
    return [*untrained, *(arm.name for arm in main_arms(1, 1) if arm.name != "top-k hard negatives")]
