"""Tables and figures of training and ablations, from stored results only: no model, no torch."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from g2e_lib.project.published import reference
from g2e_lib.report.style import (
    NOT_REPRODUCED,
    ONE_COLUMN,
    REPRODUCED,
    TITLES,
    TWO_COLUMNS,
    horizontal,
    interval,
    legend_above,
    look,
    mark_best,
    our_row,
    paper_row,
    points,
    seed_spread,
    use_style,
)

# --- training ------------------------------------------------------------------------------------------------------


def training_table(metrics: Mapping[str, Any], profile: str) -> pd.DataFrame:
    """Table 2: hit@1 after fine-tuning, beside the papers' rows; sd is the spread of the overall score over seeds."""
    rows = []
    if profile != "smoke":
        for name in ("gen2embed_mmeb", "unime_mmeb"):
            published = reference(name).query("setting == 'fine_tuned'")
            rows += [
                paper_row(f"paper, {r.model} {r.params}: {r.method}", r) | {"seeds": "–"}
                for _, r in published.iterrows()
            ]
    for name, arm in metrics["arms"].items():
        rows.append(our_row(f"{profile}: {name}", arm["groups"]) | {"seeds": seed_spread(arm["overall_by_seed"])})
    ours = [number for number, row in enumerate(rows) if row[""].startswith(f"{profile}:")]
    for baseline, others in metrics["differences"].items():
        for name, one in others.items():
            rows.append(
                our_row(f"{name} - {baseline}", one, signed=True) | {"seeds": seed_spread(one["overall_by_seed"])}
            )
    return mark_best(pd.DataFrame(rows), ours, list(TITLES.values()))


def training_datasets_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """hit@1 of every arm on every dataset."""
    rows = []
    for name, info in metrics["datasets"].items():
        row = {"dataset": name, "meta-task": info["meta_task"], "IND/OOD": info["distribution"], "n": str(info["n"])}
        rows.append(row | {arm: interval(one["datasets"][name]) for arm, one in metrics["arms"].items()})
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(metrics["arms"]), by_row=True)


CURVES = {
    "loss": "loss (nats)",
    "gradient_norm": "gradient norm",
    "hardest_negative_similarity": "similarity, hardest negative",
    "positive_similarity": "similarity, positive",
}


def curves_figure(metrics: Mapping[str, Any]) -> Figure:
    """Loss, gradient norm and similarities over the steps: means of seeds, shaded between their extremes."""
    use_style()
    figure, axes = plt.subplots(2, 2, figsize=(TWO_COLUMNS, 3.8), sharex=True)
    trained = {name: arm for name, arm in metrics["arms"].items() if arm["log"]}
    for axis, (field, label) in zip(axes.flat, CURVES.items(), strict=True):
        for index, (name, arm) in enumerate(trained.items(), 1):  # 0 is the zero-shot arm's look
            steps = [record["step"] for record in arm["log"][0]]
            values = np.array([[record[field] for record in log] for log in arm["log"]])
            style = look(index) | {"markevery": (index, max(1, len(steps) // 6)), "markersize": 4}
            axis.plot(steps, values.mean(0), linewidth=1.1, label=name, **style)
            axis.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=0.18, linewidth=0)
        axis.set_title(label)
    for axis in axes[0]:
        axis.set_yscale("log")
    for axis in axes[1]:
        axis.set_xlabel("step")
    figure.tight_layout(pad=0.5)
    legend_above(figure, axes[0][0], columns=2)
    return figure


def cost_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """What training cost, by way: time, speed and memory, means over seeds."""
    rows = []
    for name, arm in metrics["arms"].items():
        if arm["log"]:
            last = [log[-1] for log in arm["log"]]
            speeds = [np.median([record["pairs_per_second"] for record in log]) for log in arm["log"]]
            rows.append(
                {
                    "trained with": name,
                    "steps": str(last[0]["step"]),
                    "seconds": f"{np.mean(arm['seconds']):.0f}",
                    "pairs a second (median)": f"{np.mean(speeds):.0f}",
                    "peak memory (MiB)": f"{max(one['peak_memory_mib'] for one in last):.0f}",
                    "last loss (nats)": f"{np.mean([one['loss'] for one in last]):.3f}",
                    "seeds": str(len(last)),
                }
            )
    return pd.DataFrame(rows)


def training_figure(metrics: Mapping[str, Any]) -> Figure:
    """hit@1 of every way of training: overall, in and out of distribution, with 95 % intervals over queries."""
    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(TWO_COLUMNS, 0.3 * len(metrics["arms"]) + 0.9), sharey=True)
    for axis, group in zip(axes, ("overall", "IND", "OOD"), strict=True):
        for place, (name, arm) in enumerate(metrics["arms"].items()):
            if group in arm["groups"]:
                horizontal(axis, -place, arm["groups"][group], place, name)
        axis.set_title(f"{group}: hit@1 (%)")
        axis.set_yticks([-place for place in range(len(metrics["arms"]))], list(metrics["arms"]))
        axis.margins(x=0.1, y=0.15)
    figure.tight_layout(pad=0.5)
    return figure


def training_datasets_figure(metrics: Mapping[str, Any]) -> Figure:
    """hit@1 of every way of training on every dataset, in and out of distribution apart, with 95 % intervals."""
    use_style()
    sides = {side: [n for n, d in metrics["datasets"].items() if d["distribution"] == side] for side in ("IND", "OOD")}
    sides = {side: names for side, names in sides.items() if names}
    height = 0.33 * max(map(len, sides.values())) + 0.7
    figure, axes = plt.subplots(1, len(sides), figsize=(TWO_COLUMNS, height), squeeze=False, sharex=True)
    step = 0.72 / len(metrics["arms"])
    for axis, (side, names) in zip(axes[0], sides.items(), strict=True):
        for index, (arm, one) in enumerate(metrics["arms"].items()):
            for row, name in enumerate(names):
                place = -row - step * (index - (len(metrics["arms"]) - 1) / 2)
                horizontal(axis, place, one["datasets"][name], index, arm if row == 0 else "_")
        for row in range(len(names) - 1):
            axis.axhline(-row - 0.5, color="0.8", linewidth=0.6)
        axis.set_yticks([-row for row in range(len(names))], names)
        axis.set(title={"IND": "in distribution (IND)", "OOD": "out of distribution (OOD)"}[side], xlabel="hit@1 (%)")
        axis.set_ylim(0.5 - len(names), 0.5)
        axis.grid(visible=False, axis="y")
    figure.tight_layout(pad=0.5)
    legend_above(figure, axes[0][0], columns=3)
    return figure


def by_seed(difference: Mapping[str, Any]) -> str:
    """The overall difference with each seed."""
    return ", ".join(f"{value:+.1f}" for value in difference["overall_by_seed"])


def seeded_verdict(difference: Mapping[str, Any]) -> str:
    """Whether a difference is above zero over queries and with every seed; one seed alone is said to be one."""
    values = difference["overall_by_seed"]
    is_above = difference["overall"]["low"] > 0 and min(values) > 0
    return (REPRODUCED if is_above else NOT_REPRODUCED) + (" (one seed)" if len(values) == 1 else "")


# --- ablations -----------------------------------------------------------------------------------------------------


QUESTIONS = {
    "structure": "parts taken away",
    "top_k": "hard negatives of a cluster, K",
    "pool_mult": "pool multiplier, m",
    "temperature": "temperature of InfoNCE",
    "duplicates": "targets identical to a positive",
    "prompt": "prompt used throughout",
    "lora_rank": "rank of the adapter",
    "fraction": "share of the training pairs",
}
UNIME_QUESTIONS = {
    "margin": "what the filter drops, beta",
    "num_negatives": "hard negatives of a query, k",
    "negatives": "which k targets are negatives",
    "stages": "stages left out",
}


def ablation_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Every point of every question: scores, and the difference to the base arm on the same queries."""
    rows = []
    for question, names in metrics["questions"].items():
        for name in names:
            arm, difference = metrics["arms"][name], metrics["differences"][metrics["base"]].get(name)
            row = {"question": question} | our_row(name, arm["groups"])
            is_base = name in metrics["base_names"]
            row["against base"] = "base" if is_base else interval(difference["overall"], signed=True)
            rows.append(row | {"seeds": seed_spread(arm["overall_by_seed"])})
    return pd.DataFrame(rows).rename(columns={"": "setting"})


def _is_asked(metrics: Mapping[str, Any], question: str) -> bool:
    """Whether a question has at least two settings to compare."""
    return len(metrics["questions"].get(question, ())) > 1


def ablation_figure(metrics: Mapping[str, Any], question: str) -> Figure | None:
    """One thing changed at a time: overall, IND and OOD by setting, with 95 % intervals; the base setting is marked."""
    if not _is_asked(metrics, question):
        return None
    use_style()
    names = metrics["questions"][question]
    figure, axis = plt.subplots(figsize=(max(ONE_COLUMN, 0.85 * len(names) + 1.6), 2.3))
    for index, (group, shift) in enumerate((("IND", -0.12), ("overall", 0), ("OOD", 0.12))):
        places = [place + shift for place in range(len(names))]
        points(axis, places, [metrics["arms"][n]["groups"].get(group) for n in names], index,
               label=group, linestyle="none", markersize=5, capsize=2.5)  # fmt: skip
    axis.set_xticks(range(len(names)), _setting_labels(metrics, names, 14), fontsize=8)
    axis.set_ylabel("hit@1 (%)")
    axis.set_title((QUESTIONS | UNIME_QUESTIONS).get(question, question))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.margins(x=0.12)
    figure.tight_layout(pad=0.4)
    return figure


def _setting_labels(metrics: Mapping[str, Any], names: Sequence[str], width: int) -> list[str]:
    return [fill(f"{name} (base)" if name in metrics["base_names"] else name, width) for name in names]


def ablation_panel_figure(metrics: Mapping[str, Any], columns: int = 2) -> Figure | None:
    """All ablations at once: the overall difference to the base setting in points, with 95 % intervals."""
    asked = {name: settings for name, settings in metrics["questions"].items() if _is_asked(metrics, name)}
    if not asked:
        return None
    use_style()
    rows = -(-len(asked) // columns)
    most = max(len(settings) for settings in asked.values())
    size = (TWO_COLUMNS, (0.21 * most + 0.5) * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharex=True, squeeze=False)
    for axis in axes.flat[len(asked) :]:
        axis.set_axis_off()
    for axis, (question, settings) in zip(axes.flat, asked.items(), strict=False):
        for row, name in enumerate(settings):
            is_base = name in metrics["base_names"]
            zero = {"value": 0.0, "low": 0.0, "high": 0.0}
            one = zero if is_base else metrics["differences"][metrics["base"]][name]["overall"]
            horizontal(axis, -row, one, 0 if is_base else 1, name)
        axis.axvline(0, color="0.3", linewidth=0.8, zorder=0)
        axis.set_yticks([-row for row in range(len(settings))], _setting_labels(metrics, settings, 40))
        axis.set_ylim(-len(settings) + 0.4, 0.6)
        axis.set_title((QUESTIONS | UNIME_QUESTIONS).get(question, question))
    axes[0][0].xaxis.set_major_formatter("{x:+g}")
    for axis in axes[-1]:
        axis.set_xlabel("against base (points of hit@1)")
    figure.tight_layout(pad=0.5)
    return figure


def data_efficiency_figure(metrics: Mapping[str, Any]) -> Figure | None:
    """hit@1 by share of the training pairs, at the same number of steps, with 95 % intervals."""
    if not _is_asked(metrics, "fraction"):
        return None
    use_style()
    names = metrics["questions"]["fraction"]
    shares = [float(name.partition(" ")[0]) for name in names]  # "25 % of pairs"
    figure, axis = plt.subplots(figsize=(ONE_COLUMN * 1.25, 2.4))
    for index, (group, shift) in enumerate((("IND", 0.97), ("overall", 1), ("OOD", 1.03))):
        found = [metrics["arms"][name]["groups"].get(group) for name in names]
        points(axis, [share * shift for share in shares], found, index, label=group, capsize=2.5)
    axis.set(xscale="log", xlabel="share of the training pairs (%)", ylabel="hit@1 (%)")
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout(pad=0.4)
    return figure


def ablation_verdicts(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """For every change of one thing whether the overall score differs.

    It does if the interval over queries lies on one side of zero, and so does the difference with every seed. With one
    seed this is about one pair of weights, and among many changes one in twenty differs by chance.
    """
    rows = []
    for name, groups in metrics["differences"][metrics["base"]].items():
        if name in metrics["base_names"]:
            continue
        one = groups["overall"]
        values = groups["overall_by_seed"]
        is_higher, is_lower = one["low"] > 0 and min(values) > 0, one["high"] < 0 and max(values) < 0
        verdict = "higher" if is_higher else "lower" if is_lower else "no difference shown"
        verdict += " (one seed)" if len(values) == 1 else ""
        ours = f"{interval(one, signed=True)} points"
        row = {"change": name, "overall, against base": ours, "by seed": by_seed(groups), "n": str(one["n"])}
        rows.append({**row, "verdict": verdict})
    return pd.DataFrame(rows)
