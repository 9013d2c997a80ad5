"""The papers' claims, each with its source, the paper's number, ours, and a verdict computed by a stated rule.

What is claimed is data, in claims.yaml; the rules are functions here.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from g2e_lib.project.config import load_profile, profile_names
from g2e_lib.project.published import reference
from g2e_lib.report.score_tables import by_seed, seeded_verdict
from g2e_lib.report.text import META_TASKS, NOT_REPRODUCED, NOT_RUN, REPRODUCED, Drawn, interval, to_markdown

NO_LOSS_MARGIN = 2.0  # points that count as no loss in claims that something suffices or survives
NO_DIFFERENCE = "no difference: neither has any"
RULES = {
    "a difference": "reproduced if its whole 95 % interval is above zero; where models were trained, with every seed",
    "a gap": "reproduced if the two 95 % intervals do not overlap, in the right order",
    "suffices, survives": f"reproduced if the whole interval is above -{NO_LOSS_MARGIN:g} points",
    "a score": "reproduced if its whole interval is above what guessing gives",
    "a count, or a mean over the steps of training": "reproduced if it is in the right order, with every seed",
}

Metrics = Mapping[str, Any]
Finding = dict[str, Any]  # ours, n, verdict, and perhaps "by seed"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper."""

    part: str  # whose table it belongs to
    statement: str
    source: str  # paper and place
    paper: str  # its number, or the direction it states
    needs: str  # name of a metrics file
    rule: Callable[..., Finding | None]  # gets the metrics and the arguments; None if something was not measured
    arguments: dict[str, Any]  # of the rule
    is_detail: bool = False  # left out of short lists
    is_headline: bool = False  # one of the README's findings


# --- rules ---------------------------------------------------------------------------------------------------------


def _dig(metrics: Any, *path: str) -> Any:  # noqa: ANN401 (any part of a metrics file)
    """What lies at a path of keys, or None."""
    for key in path:
        metrics = metrics.get(key) if isinstance(metrics, Mapping) else None
    return metrics


def _verdict(is_reproduced: bool) -> str:
    return REPRODUCED if is_reproduced else NOT_REPRODUCED


def flipped(estimate: Drawn) -> dict[str, Any]:
    """The same difference seen from the other side.

    >>> flipped({"value": 1.0, "low": -1.0, "high": 3.0, "n": 9})
    {'value': -1.0, 'low': -3.0, 'high': 1.0, 'n': 9}
    """
    return {"value": -estimate["value"], "low": -estimate["high"], "high": -estimate["low"], "n": estimate["n"]}


def higher(metrics: Metrics, at: Sequence[str], flip: bool = False, margin: bool = False) -> Finding | None:
    """A difference, which lies `at` a path of keys: its whole interval is above zero.

    With `flip`, the claim is about the opposite difference; with `margin`, a loss within NO_LOSS_MARGIN is none.
    """
    if (found := _dig(metrics, *at)) is None:
        return None
    found = flipped(found) if flip else found
    verdict = _verdict(found["low"] > -NO_LOSS_MARGIN * margin)
    return {"ours": f"{interval(found, signed=True)} points", "n": found["n"], "verdict": verdict}


def fewer(mining: Metrics, at: Sequence[str]) -> Finding | None:
    """False negatives: the rival's rate minus SaHa's has its whole interval above zero."""
    found, rates = higher(mining, at), _dig(mining, *at)
    return {**found, "verdict": NO_DIFFERENCE} if found and rates["low"] == rates["high"] == 0 else found


def trained(metrics: Metrics, better: str, worse: str, flip: bool = False, margin: bool = False) -> Finding | None:
    """Two ways of training: the interval over queries, and every seed, are above zero; arguments as in higher."""
    found = _dig(metrics, "differences", worse, better)
    if found is None or not found["overall_by_seed"]:
        return None
    seeds, loss = [-value if flip else value for value in found["overall_by_seed"]], NO_LOSS_MARGIN * margin
    overall = flipped(found["overall"]) if flip else found["overall"]
    verdict = seeded_verdict(overall["low"] + loss, [value + loss for value in seeds])
    ours = f"{interval(overall, signed=True)} points"
    return {"ours": ours, "n": overall["n"], "verdict": verdict, "by seed": by_seed(seeds)}


def every_meta_task(zero_shot: Metrics) -> Finding | None:
    """The difference of the hierarchical prompt is above zero on every meta-task that was measured."""
    groups = _dig(zero_shot, "differences", "none", "hierarchical")
    measured = [groups[task] for task in META_TASKS if task in groups] if groups else []
    if not measured:
        return None
    above, n = sum(found["low"] > 0 for found in measured), sum(found["n"] for found in measured)
    return {"ours": f"{above} of {len(measured)} meta-tasks", "n": n, "verdict": _verdict(above == len(measured))}


def narrower(gap: Metrics) -> Finding | None:
    """A gap: the two intervals do not overlap."""
    if not {"none", "hierarchical"} <= set(gap["panels"]):
        return None
    before, after = (gap["panels"][name]["gap"]["centroid_distance"] for name in ("none", "hierarchical"))
    ours = " to ".join(interval(found, digits=2) for found in (before, after))
    return {"ours": ours, "n": after["n"], "verdict": _verdict(after["high"] < before["low"])}


def fewer_passes(mining: Metrics) -> Finding | None:
    """A count: encoder passes a pair."""
    saha, topk = (_dig(mining, "miners", name) for name in ("saha", "topk"))
    if saha is None or topk is None:
        return None
    ours = f"{saha['passes']:.1f} against {topk['passes']:.1f}"
    return {"ours": ours, "n": saha["rows"], "verdict": _verdict(saha["passes"] < topk["passes"])}


def larger_in_training(unime: Metrics, field: str, rival: str) -> Finding | None:
    """Hard negatives: a logged number is larger by an interval over steps above zero, and with every seed."""
    found = _dig(unime, "negatives_differences", rival, field)
    if found is None:
        return None
    hard, other = ([np.mean([record[field] for record in log]) for log in unime["negatives"][kind]]
                   for kind in ("hard", rival))  # fmt: skip
    verdict = seeded_verdict(found["low"], [a - b for a, b in zip(hard, other, strict=True)])
    return {"ours": interval(found, signed=True, digits=2), "n": found["n"], "verdict": verdict}


def filters(unime: Metrics, moment: str) -> Finding | None:
    """UniME's filter: false negatives without it minus with it, the whole interval above zero."""
    return higher(unime, ("filter", moment, "differences", unime.get("filter_used", "")), flip=True)


def above_guessing(metrics: Metrics, at: Sequence[str], guess: float) -> Finding | None:
    """A score: its whole interval is above what guessing gives, in percent."""
    if (found := _dig(metrics, *at)) is None:
        return None
    return {"ours": f"{interval(found)} %", "n": found["n"], "verdict": _verdict(found["low"] > guess)}


# --- the list ------------------------------------------------------------------------------------------------------

NAMED = (higher, fewer, trained, every_meta_task, narrower, fewer_passes, larger_in_training, filters, above_guessing)


def _scores(table: str, columns: Sequence[str], **row: str) -> pd.Series:
    """Published scores: the columns of the row with these values."""
    found = reference(table)
    for column, value in row.items():
        found = found[found[column] == value]
    return found[list(columns)].astype(float).iloc[0]


def published(number: str | Mapping[str, Any]) -> str:
    """The paper's number: a text as it is, or computed from published tables.

    A mapping has `form`: "gain" of `better` over `worse` in the mean of `columns`, for each of `models`, or the
    "count" of columns that gained.
    """
    if isinstance(number, str):
        return number
    rows = [{"model": model} for model in number.get("models", ())] or [{}]
    better, worse = ([_scores(columns=number["columns"], **number[side], **row) for row in rows]
                     for side in ("better", "worse"))  # fmt: skip
    if number["form"] == "count":
        return f"{(better[0] > worse[0]).sum()} of {len(number['columns'])}"
    return " and ".join(f"{b.mean() - w.mean():+.1f}" for b, w in zip(better, worse, strict=True)) + " points"


def _filled(value: Any, places: Mapping[str, Any]) -> Any:  # noqa: ANN401 (any part of a claim)
    """The value with every {place} in its texts filled."""
    if isinstance(value, Mapping):
        return {key: _filled(inner, places) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, places) for inner in value]
    return value.format(**places) if isinstance(value, str) else value


def _claims() -> Iterator[Claim]:
    rules = {rule.__name__: rule for rule in NAMED}
    for written in yaml.safe_load((Path(__file__).parent / "claims.yaml").read_text(encoding="utf-8")):
        for chosen in product(*written.pop("each", [])):
            places = {key: value for fields in chosen for key, value in fields.items()}
            flags = [places.pop(flag, written.get(flag, False)) for flag in ("detail", "headline")]
            fields = _filled({key: v for key, v in written.items() if key not in ("detail", "headline")}, places)
            own = (fields.pop(key) for key in ("part", "claim", "source", "paper", "needs", "rule"))
            part, statement, source, paper, needs, rule = own
            yield Claim(part, statement, source, published(paper), needs, rules[rule], fields, *flags)


CLAIMS = tuple(_claims())
METRICS = tuple(dict.fromkeys(claim.needs for claim in CLAIMS))


# --- what is shown -------------------------------------------------------------------------------------------------


def claims_table(
    metrics: Mapping[str, Metrics],
    profile: str,
    part: str = "",
    chosen: Callable[[Claim], bool] = lambda claim: True,
) -> pd.DataFrame:
    """Claims with their verdicts, one a row: claim, source, paper, ours, n, verdict, by seed.

    Args:
        metrics: by name of the file those that exist.
        profile: the papers' numbers are left out for `smoke`.
        part: only claims of this part that were measured; "" for all, with "not run" where something is missing.
        chosen: which claims.
    """
    rows = []
    for claim in CLAIMS:
        if (part and claim.part != part) or not chosen(claim):
            continue
        found = claim.rule(metrics[claim.needs], **claim.arguments) if claim.needs in metrics else None
        if found is None and part:
            continue
        found = {"ours": "–", "n": "–", "verdict": NOT_RUN, "by seed": "–"} | (found or {})
        paper = "–" if profile == "smoke" else claim.paper
        rows.append({"claim": claim.statement, "source": claim.source, "paper": paper, **found, "n": str(found["n"])})
    columns = ["claim", "source", "paper", "ours", "n", "verdict", "by seed"]
    table = pd.DataFrame(rows, columns=columns)
    return table if (table["by seed"] != "–").any() else table.drop(columns="by seed")


def tally(table: pd.DataFrame) -> str:
    """How many claims have each verdict, in words; the number of seeds is not looked at."""
    counts = Counter(str(verdict).partition(" (")[0] for verdict in table["verdict"])
    order = [name for name in (REPRODUCED, NOT_REPRODUCED, NO_DIFFERENCE, NOT_RUN) if counts[name]]
    return ", ".join(f"{counts[name]} {name.partition(':')[0]}" for name in order)


def claims_markdown(table: pd.DataFrame, profile: str) -> str:
    """The page `claims.md`: rules, tally and table."""
    rules = "\n".join(f"- {kind}: {rule}." for kind, rule in RULES.items())
    return (
        f"# Claims of the papers, profile {profile}\n\n{tally(table)}.\n\nVerdicts are computed, by these rules:\n\n"
        f"{rules}\n\nDifferences are paired on the same queries; brackets hold 95 % bootstrap intervals. "
        f"{comparability(profile)}\n\n{to_markdown(table)}"
    )


def comparability(profile: str) -> str:
    """What the papers' numbers may be compared with, in a sentence.

    >>> comparability("mini")
    'Numbers of the papers are of other models and data: compare directions, not levels.'
    """
    is_real = profile in profile_names() and (load_profile(profile).get("00_setup") or {}).get("world") == "mmeb"
    if is_real:
        return (
            "Gen2Embed's numbers are of Qwen2-VL 2B and 7B on all of MMEB: compare levels only where model, rows (n) "
            "and steps are the same. UniME's are of other models."
        )
    return "Numbers of the papers are of other models and data: compare directions, not levels."


def claims_text(table: pd.DataFrame, width: int = 0) -> str:
    """The table for a terminal: verdict, claim, the paper's number and ours, cut to its width; 0 asks for it."""
    width = width or shutil.get_terminal_size((120, 24)).columns
    marks = {REPRODUCED: "yes", NOT_RUN: "not run"}
    sizes = (8, max(24, width - 57), 14, 32)
    lines = [("", "claim", "paper", "ours")]
    for row in table.itertuples():
        mark = marks.get(str(row.verdict).partition(" (")[0], "no")
        lines.append((mark, row.claim, row.paper.removesuffix(" points"), str(row.ours).removesuffix(" points")))
    shown = (" ".join(_fit(cell, size) for cell, size in zip(line, sizes, strict=True)).rstrip() for line in lines)
    return "\n".join([f"claims: {tally(table)}", *shown])


def _fit(text: str, size: int) -> str:
    return f"{text:{size}}" if len(text) <= size else f"{text[: size - 1]}…"
