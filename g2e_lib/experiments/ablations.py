"""Notebook 04: which parts of SaHa matter? One thing is changed at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from g2e_lib.experiments.settings import AblationSettings
from g2e_lib.experiments.study import Method, Study
from g2e_lib.miners import Miner
from g2e_lib.project.results import Results

Change = Callable[[Any], dict[str, Any]]  # from a value to the fields of the base method that differ


def base_method(settings: AblationSettings) -> Method:
    """SaHa, with K and m of the base point."""
    return Method("base", miner=Miner("saha", settings.base_top_k, settings.base_pool_mult))


def questions(settings: AblationSettings) -> dict[str, list[Method]]:
    """One list of methods a question, called `<question>=<value>`; ValueError if a part of the structure is unknown."""
    base = base_method(settings)
    structures = {
        "saha": {},
        "no_filter": {"miner": replace(base.miner, method="saha_no_filter")},
        "no_clusters": {"settings": {"breaks_clusters": True}},
        "no_second_phase": {"miner": replace(base.miner, use_second_phase=False)},
        "no_mining": {"miner": None},
    }

    def trained(**settings: Any) -> dict[str, Any]:  # noqa: ANN401
        return {"settings": settings}

    changes: dict[str, Change] = {
        "structure": lambda value: structures[value],
        "top_k": lambda value: {"miner": replace(base.miner, top_k=value)},
        "pool_mult": lambda value: {"miner": replace(base.miner, pool_mult=value)},
        "temperature": lambda value: trained(temperature=value),
        "duplicates": lambda value: trained(masks_duplicates=value),
        "prompt": lambda value: {"prompt": value},
        "lora_rank": lambda value: trained(lora_rank=value, lora_alpha=round(value * settings.lora_scale)),
        "fraction": lambda value: trained(fraction=value),
    }
    check_values("structure", settings.structure, structures)
    return points(base, settings.points(), changes)


def points(base: Method, values: Mapping[str, Sequence[Any]], changes: Mapping[str, Change]) -> dict[str, list[Method]]:
    """One list of methods for each question that has values; each differs from the base in one thing."""
    return {
        question: [replace(base, key=f"{question}={value}", **changes[question](value)) for value in some]
        for question, some in values.items()
        if some
    }


def check_values(question: str, values: Sequence[Any], known: Mapping[str, Any]) -> None:
    """Raise ValueError, naming the first value that a question does not have."""
    if unknown := [value for value in values if value not in known]:
        raise ValueError(f"unknown {question} {unknown[0]!r}: choose among {', '.join(known)}")


def run(results: Results, settings: AblationSettings, study: Study) -> dict[str, Any]:
    """Run the base and every point, compare them, and store `ablations`; returns what Study.ask does."""
    record, asked = study.provenance(), questions(settings)
    found = study.ask(base_method(settings), asked)
    results.save("ablations", found, record, study.queries)
    return found
