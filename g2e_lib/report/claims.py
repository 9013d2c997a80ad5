"""The papers' claims, each with its source, the paper's number, ours, and a verdict computed by a stated rule."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from g2e_lib.project.config import load_profile, profile_names
from g2e_lib.project.published import reference
from g2e_lib.report.style import (
    META_TASKS,
    NOT_REPRODUCED,
    NOT_RUN,
    REPRODUCED,
    Estimate,
    flipped,
    interval,
    to_markdown,
)
from g2e_lib.report.training_report import by_seed, seeded_verdict

MARGIN = 2.0  # points that count as no loss in claims that something suffices or survives
PROMPT_GAIN = 4.8  # points the prompt adds to in-batch training, as Gen2Embed's first version states
NO_DIFFERENCE = "no difference: neither has any"
RULES = {
    "a difference": "reproduced if its whole 95 % interval is above zero; where models were trained, with every seed",
    "a gap": "reproduced if the two 95 % intervals do not overlap, in the right order",
    "suffices, survives": f"reproduced if the whole interval is above -{MARGIN:g} points",
    "a score": "reproduced if its whole interval is above what guessing gives",
    "a count, or a mean over the steps of training": "reproduced if it is in the right order, with every seed",
}

Metrics = Mapping[str, Any]
Finding = dict[str, Any]  # ours, n, verdict, and perhaps "by seed"


@dataclass(frozen=True)
class Claim:
    """One statement of a paper.

    Attributes:
        part: whose table it belongs to.
        statement: in a few words.
        source: paper and place.
        paper: its number, or the direction it states.
        needs: names of metrics files.
        judge: gets the metrics in order; None if what it needs was not measured.
        is_detail: left out of short lists.
    """

    part: str
    statement: str
    source: str
    paper: str
    needs: tuple[str, ...]
    judge: Callable[..., Finding | None]
    is_detail: bool = False


# --- rules ---------------------------------------------------------------------------------------------------------


def _dig(metrics: Any, *path: str) -> Any:  # noqa: ANN401 (any part of a metrics file)
    """What lies at a path of keys, or None."""
    for key in path:
        metrics = metrics.get(key) if isinstance(metrics, Mapping) else None
    return metrics


def _finding(one: Estimate, is_reproduced: bool) -> Finding:
    verdict = REPRODUCED if is_reproduced else NOT_REPRODUCED
    return {"ours": f"{interval(one, signed=True)} points", "n": one["n"], "verdict": verdict}


def higher(*path: str, flip: bool = False, margin: float = 0.0) -> Callable[[Metrics], Finding | None]:
    """The rule for a difference: its whole interval is above -margin.

    Args:
        path: where the estimate lies.
        flip: the claim is about the opposite difference.
        margin: in points.
    """

    def judge(metrics: Metrics) -> Finding | None:
        if (one := _dig(metrics, *path)) is None:
            return None
        one = flipped(one) if flip else one
        return _finding(one, one["low"] > -margin)

    return judge


def fewer(rival: str, group: str) -> Callable[[Metrics], Finding | None]:
    """The rule for false negatives: the rival's rate minus SaHa's has its whole interval above zero."""

    def judge(mining: Metrics) -> Finding | None:
        one = _dig(mining, "differences", rival, group)
        found = higher("differences", rival, group)(mining)
        return {**found, "verdict": NO_DIFFERENCE} if found and one["low"] == one["high"] == 0 else found

    return judge


def trained(better: str, worse: str, flip: bool = False, margin: float = 0.0) -> Callable[[Metrics], Finding | None]:
    """The rule for two ways of training: the interval over queries, and every seed, are above -margin."""

    def judge(metrics: Metrics) -> Finding | None:
        one = _dig(metrics, "differences", worse, better)
        if one is None or not one["overall_by_seed"]:
            return None
        seeds = [-value if flip else value for value in one["overall_by_seed"]]
        overall = flipped(one["overall"]) if flip else one["overall"]
        moved = {"overall": {"low": overall["low"] + margin}, "overall_by_seed": [value + margin for value in seeds]}
        found = {**_finding(overall, True), "verdict": seeded_verdict(moved)}
        return {**found, "by seed": by_seed({"overall_by_seed": seeds})}

    return judge


def _every_meta_task(zero_shot: Metrics) -> Finding | None:
    groups = _dig(zero_shot, "differences", "none", "hierarchical")
    measured = [groups[task] for task in META_TASKS if task in groups] if groups else []
    if not measured:
        return None
    above = sum(one["low"] > 0 for one in measured)
    verdict = REPRODUCED if above == len(measured) else NOT_REPRODUCED
    return {
        "ours": f"{above} of {len(measured)} meta-tasks",
        "n": sum(one["n"] for one in measured),
        "verdict": verdict,
    }


def _narrower(gap: Metrics) -> Finding | None:
    if not {"none", "hierarchical"} <= set(gap["panels"]):
        return None
    before, after = (gap["panels"][name]["gap"]["centroid_distance"] for name in ("none", "hierarchical"))
    ours = " to ".join("{value:.2f} [{low:.2f}, {high:.2f}]".format(**one) for one in (before, after))
    verdict = REPRODUCED if after["high"] < before["low"] else NOT_REPRODUCED
    return {"ours": ours, "n": after["n"], "verdict": verdict}


def _passes(mining: Metrics) -> Finding | None:
    saha, topk = (_dig(mining, "miners", name) for name in ("saha", "topk"))
    if saha is None or topk is None:
        return None
    verdict = REPRODUCED if saha["passes"] < topk["passes"] else NOT_REPRODUCED
    return {"ours": f"{saha['passes']:.1f} against {topk['passes']:.1f}", "n": saha["rows"], "verdict": verdict}


def larger_in_training(field: str, rival: str) -> Callable[[Metrics], Finding | None]:
    """The rule for hard negatives: a logged number is larger by an interval over steps above zero, and every seed."""

    def judge(unime: Metrics) -> Finding | None:
        one = _dig(unime, "negatives_differences", rival, field)
        if one is None:
            return None
        hard, other = (unime["negatives"][kind] for kind in ("hard", rival))
        seeds = [_mean(a, field) - _mean(b, field) for a, b in zip(hard, other, strict=True)]
        verdict = REPRODUCED if one["low"] > 0 and min(seeds) > 0 else NOT_REPRODUCED
        ours = "{value:+.2f} [{low:+.2f}, {high:+.2f}]".format(**one)
        return {"ours": ours, "n": one["n"], "verdict": verdict + (" (one seed)" if len(seeds) == 1 else "")}

    return judge


def _mean(log: Sequence[Mapping[str, Any]], field: str) -> float:
    return float(np.mean([record[field] for record in log]))


def filters(moment: str) -> Callable[[Metrics], Finding | None]:
    """The rule for UniME's filter: false negatives without it minus with it, the whole interval above zero."""

    def judge(unime: Metrics) -> Finding | None:
        used = unime.get("filter_used", "")
        return higher("filter", moment, "differences", used, flip=True)(unime)

    return judge


def above_guessing(*path: str, guess: float) -> Callable[[Metrics], Finding | None]:
    """The rule for a score: its whole interval is above what guessing gives, in percent."""

    def judge(metrics: Metrics) -> Finding | None:
        if (one := _dig(metrics, *path)) is None:
            return None
        verdict = REPRODUCED if one["low"] > guess else NOT_REPRODUCED
        return {"ours": f"{interval(one)} %", "n": one["n"], "verdict": verdict}

    return judge


# --- the list ------------------------------------------------------------------------------------------------------

NO_PROMPT, PROMPT, TOP_K = "in-batch, no prompt (VLM2Vec)", "in-batch, hierarchical prompt", "top-k hard negatives"
RIVALS = {"topk": "top-k targets", "threshold": "top-k below a threshold", "saha_no_filter": "SaHa unfiltered"}
MINED_GROUPS = ("all", "repeated answers", "captions", "other")
FRACTIONS = ("10 % of pairs", "25 % of pairs", "50 % of pairs")


def _points(*gains: float) -> str:
    return " and ".join(f"{gain:+.1f}" for gain in gains) + " points"


def _zero_shot_claims() -> Iterator[Claim]:
    paper = reference("gen2embed_mmeb").query("setting == 'zero_shot'").set_index("method")
    columns = [*META_TASKS, "overall"]
    before, after = (paper.loc[name, columns].astype(float) for name in ("baseline prompt", "hierarchical prompt"))
    gain, source, needs = after - before, "Gen2Embed, zero-shot MMEB", ("zero_shot",)
    yield Claim("zero_shot", "the hierarchical prompt beats no prompt on every meta-task", source,
                f"{sum(gain[list(META_TASKS)] > 0)} of {len(META_TASKS)}", needs, _every_meta_task)  # fmt: skip
    for group in ("overall", *META_TASKS):
        judge = higher("differences", "none", "hierarchical", group)
        statement = f"the hierarchical prompt beats no prompt, {group}"
        yield Claim("zero_shot", statement, source, _points(gain[group]), needs, judge, group != "overall")
    for level, other in (("system", "user"), ("user", "system")):
        judge = higher("differences", "hierarchical", other, "overall", flip=True)
        statement = f"the {level} level adds to the {other} level, overall"
        yield Claim("zero_shot", statement, "Gen2Embed, section 3", "positive", needs, judge)
    statement = "the hierarchical prompt narrows the modality gap (centroid distance)"
    yield Claim("zero_shot", statement, "Gen2Embed, section 3", "narrower", ("modality_gap",), _narrower)


def _mining_claims() -> Iterator[Claim]:
    source, needs = "Gen2Embed, section 4", ("mining",)
    for rival, name in RIVALS.items():
        for group in MINED_GROUPS:
            statement = f"SaHa has fewer false negatives than {name}: {group}"
            yield Claim("mining", statement, source, "fewer", needs, fewer(rival, group),
                        group != "all" or rival == "saha_no_filter")  # fmt: skip
    yield Claim("mining", "clusters need fewer encoder passes a pair than topk", source, "fewer", needs, _passes)


def _training_claims() -> Iterator[Claim]:
    paper = reference("gen2embed_mmeb").set_index(["setting", "method", "params"])
    saha, plain = (paper.loc[("fine_tuned", name, "2.2B")] for name in ("SaHa", "VLM2Vec"))
    untrained = paper.loc[("zero_shot", "hierarchical prompt", "2.2B"), "overall"]
    gain = {group: _points(saha[group] - plain[group]) for group in ("overall", "ood")}
    mmeb, section = "Gen2Embed, MMEB", "Gen2Embed, section 4"
    rows = (
        ("the prompt lifts in-batch training", "Gen2Embed, first version", _points(PROMPT_GAIN), "", PROMPT, NO_PROMPT),
        ("SaHa beats in-batch training without prompt", mmeb, gain["overall"], gain["ood"], "SaHa", NO_PROMPT),
        ("SaHa beats in-batch training with the same prompt", section, "positive", "positive", "SaHa", PROMPT),
        ("SaHa beats top-k hard negatives", section, "positive", "positive", "SaHa", TOP_K),
        ("fine-tuning with SaHa beats no training", mmeb, _points(saha["overall"] - untrained), "", "SaHa",
         "zero-shot"),
    )  # fmt: skip
    for statement, source, overall, ood, better, worse in rows:
        yield Claim("training", f"{statement}, overall", source, overall, ("training",), trained(better, worse))
        if ood:
            judge = higher("differences", worse, better, "OOD")
            yield Claim("training", f"{statement}, OOD", source, ood, ("training",), judge)


def _ablation_claims() -> Iterator[Claim]:
    source, needs = "Gen2Embed, section 4", ("ablations",)
    judge = trained("no query-space filter", "SaHa", flip=True)
    yield Claim("ablation", "the query-space filter improves training", source, "positive", needs, judge)
    for share in FRACTIONS:
        statement = f"{share} train as well as all"
        yield Claim("ablation", statement, "Gen2Embed, data efficiency", "suffices", needs,
                    trained(share, "SaHa", margin=MARGIN), share == FRACTIONS[1])  # fmt: skip


def _gain(table: pd.DataFrame, better: tuple[str, str], worse: tuple[str, str]) -> str:
    """The published gains of one method over another in the mean of all columns, for UniME's two models."""
    models = ("Phi3.5-V", "LLaVA-1.6")
    means = table.mean(axis=1)
    return _points(*(means[(*better, one)] - means[(*worse, one)] for one in models))


def _unime_claims() -> Iterator[Claim]:
    mmeb = reference("unime_mmeb").set_index(["setting", "method", "model"])[["overall"]]
    first, both, start = "UniME stage 1", "UniME stage 1 + 2", "zero-shot, UniME's prompt"
    zero_shot, tuned = "zero_shot", "fine_tuned"
    rows = (
        ("UniME's stage 1 improves zero-shot embedding", _gain(mmeb, (zero_shot, "UniME stage 1"), (zero_shot, "E5-V")),
         first, start),
        ("UniME's stages 1 + 2 beat in-batch training", _gain(mmeb, (tuned, "UniME stage 1+2"), (tuned, "VLM2Vec")),
         both, NO_PROMPT),
        ("UniME's stage 2 improves on stage 1", _gain(mmeb, (tuned, "UniME stage 1+2"), (zero_shot, "UniME stage 1")),
         both, first),
        ("UniME's stage 1 helps stage 2", "positive", both, "UniME stage 2 alone"),
    )  # fmt: skip
    for statement, paper, better, worse in rows:
        yield Claim("unime", f"{statement}, overall", "UniME, MMEB", paper, ("unime",), trained(better, worse))
    theirs = reference("gen2embed_mmeb").query("method == 'SaHa' and params == '2.2B'")["overall"].iloc[0]
    best = mmeb.loc[(tuned, "UniME stage 1+2", "LLaVA-1.6"), "overall"]
    yield Claim("unime", "SaHa beats UniME, overall", "Gen2Embed, MMEB (other models)", _points(theirs - best),
                ("unime",), trained(both, "SaHa", flip=True))  # fmt: skip
    for moment in ("as stage 2 begins", "as stage 2 ends"):
        yield Claim("unime", f"UniME's filter drops false negatives, {moment}", "UniME, stage 2", "fewer", ("unime",),
                    filters(moment), moment == "as stage 2 ends")  # fmt: skip
    for field, name in (("loss", "a larger loss"), ("gradient_norm", "larger gradients")):
        for rival in ("easy", "random"):
            yield Claim("unime", f"hard negatives give {name} than {rival} ones", "UniME, stage 2", "larger",
                        ("unime",), larger_in_training(field, rival), rival == "random")  # fmt: skip


def _sugarcrepe_claims() -> Iterator[Claim]:
    crepe = reference("unime_retrieval").assign(setting="").set_index(["setting", "method", "model"])
    crepe = crepe[[f"sugarcrepe_{group}" for group in ("replace", "swap", "add")]]
    first, both = "UniME stage 1", "UniME stage 1 + 2"
    at = ("differences", "sugarcrepe", "image")
    needs, source = ("sugarcrepe",), "UniME, SugarCrepe"
    yield Claim("sugarcrepe", "UniME's stage 1 improves composition", source,
                _gain(crepe, ("", "UniME stage 1"), ("", "E5-V")), needs,
                higher(*at, "zero-shot: unime", first, "mean"))  # fmt: skip
    yield Claim("sugarcrepe", "UniME's stages 1 + 2 beat in-batch training in composition", source,
                _gain(crepe, ("", "UniME stage 1+2"), ("", "VLM2Vec")), needs,
                higher(*at, NO_PROMPT, both, "mean"))  # fmt: skip
    swap = above_guessing("sets", "sugarcrepe", "image", "SaHa", "groups", "swap", guess=50)
    yield Claim("sugarcrepe", "SaHa is no bag of words: swaps, better than guessing", "Gen2Embed, SugarCrepe",
                "above 50 %", needs, swap)  # fmt: skip
    for name, kind, title in (("sugarcrepe", "image", "SugarCrepe"), ("sugarcrepe_pp", "image", "SugarCrepe++"),
                              ("sugarcrepe_pp", "text", "SugarCrepe++, text alone")):  # fmt: skip
        yield Claim("sugarcrepe", f"SaHa beats UniME in composition: {title}", "Gen2Embed, SugarCrepe", "positive",
                    needs, higher("differences", name, kind, "SaHa", both, "mean", flip=True),
                    name != "sugarcrepe")  # fmt: skip
    for name, judged in (("SaHa", "SaHa"), ("in-batch training", PROMPT)):
        yield Claim("sugarcrepe", f"composition survives {name}", "Gen2Embed, SugarCrepe", "survives", needs,
                    higher(*at, "zero-shot: hierarchical", judged, "mean", margin=MARGIN))  # fmt: skip


CLAIMS = (
    *_zero_shot_claims(),
    *_mining_claims(),
    *_training_claims(),
    *_ablation_claims(),
    *_unime_claims(),
    *_sugarcrepe_claims(),
)
METRICS = tuple(dict.fromkeys(name for claim in CLAIMS for name in claim.needs))


# --- what is shown -------------------------------------------------------------------------------------------------


def claims_table(metrics: Mapping[str, Metrics], profile: str, part: str = "", is_short: bool = False) -> pd.DataFrame:
    """Claims with their verdicts.

    Args:
        metrics: by name of the file those that exist.
        profile: its name; the papers' numbers are left out for `smoke`.
        part: only claims of this part that were measured; "" for all, with "not run" where something is missing.
        is_short: leave out details.

    Returns:
        One row a claim: claim, source, paper, ours, n, verdict, by seed.
    """
    rows = []
    for one in CLAIMS:
        if (part and one.part != part) or (is_short and one.is_detail):
            continue
        found = one.judge(*(metrics[name] for name in one.needs)) if set(one.needs) <= set(metrics) else None
        if found is None and part:
            continue
        found = {"ours": "–", "n": "–", "verdict": NOT_RUN, "by seed": "–"} | (found or {})
        paper = "–" if profile == "smoke" else one.paper
        rows.append({"claim": one.statement, "source": one.source, "paper": paper, **found, "n": str(found["n"])})
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
    """The table for a terminal: verdict, claim, the paper's number and ours, cut to its width.

    Args:
        table: of claims_table.
        width: characters; 0 asks the terminal.
    """
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
