"""Tables and figures of notebook 02: a mined cluster step by step, and miners with their true false negatives."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from g2e_lib.project.pictures import draw_tile
from g2e_lib.report.style import COLOURS, TWO_COLUMNS, bars, interval, legend_above, mark_best, points, use_style

FATES = {"kept": COLOURS[1], "too similar in query space": COLOURS[2], "own positive": COLOURS[3]}
FATES["not looked at"] = "0.5"


def steps_table(example: Mapping[str, Any]) -> pd.DataFrame:
    """What became of each target retrieved for one anchor, in order."""
    rows = []
    for rank, step in enumerate(example["steps"], 1):
        has_owner = step["owner"] >= 0
        rows.append(
            {
                "rank": rank,
                "target row": step["target"],
                "similarity": f"{step['target_cosine']:.3f}",
                "owner": str(step["owner"]) if has_owner else "–",
                "its query": step["owner_text"] if has_owner else "–",
                "similarity of queries": f"{step['owner_cosine']:.3f}" if has_owner else "–",
                "what becomes of it": step["fate"],
                "in truth a right answer": "yes" if step["is_right"] else "no",
            }
        )
    return pd.DataFrame(rows)


def steps_figure(example: Mapping[str, Any], results: Path, columns: int = 6, unseen: int = 2) -> Figure:
    """A query and the targets retrieved for it, nearest first, with their owners' captions and what becomes of them.

    Args:
        example: metrics/mining_example.json: `anchor` and `steps`, see glyphworld.truth.explain_anchor.
        results: folder that pictures are relative to.
        columns: panels in a row.
        unseen: how many of the targets that are not looked at are drawn; the table has all of them.
    """
    use_style()
    looked_at = sum(step["fate"] != "not looked at" for step in example["steps"])
    steps = example["steps"][: looked_at + unseen]
    task = _common_words([example["anchor"]["text"], *(one["owner_text"] for one in steps if one["owner"] >= 0)])
    lines = -(-(len(steps) + 1) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(TWO_COLUMNS, 1.95 * lines), squeeze=False)
    panels = axes.flatten()
    anchor = {**example["anchor"], "text": example["anchor"]["text"].removeprefix(task), "title": "the query"}
    draw_tile(panels[0], anchor, results, 22, (7.5, 7.5))
    for axis, (rank, step) in zip(panels[1:], enumerate(steps, 1), strict=False):
        colour, fate = FATES[step["fate"]], step["fate"].replace("too similar in query space", "dropped")
        right = "\n(in truth right)" if step["is_right"] and step["fate"] != "own positive" else ""
        owner = f"owner: {step['owner_text'].removeprefix(task)}\n" if step["owner"] >= 0 else ""
        queries = f", queries {step['owner_cosine']:.2f}" if step["owner"] >= 0 else ""
        tile = {"image": step["target_image"], "text": step["target_text"], "title": f"{rank}. {fate}{right}"}
        tile["caption"] = f"{owner}target {step['target_cosine']:.2f}{queries}"
        draw_tile(axis, tile, results, 25, (7.5, 6.5), colour)
        axis.title.set(color=colour if colour != "0.5" else "0.35")
    for axis in panels[len(steps) + 1 :]:
        axis.set_visible(False)
    figure.tight_layout(pad=0.4, h_pad=0.8)
    return figure


def _common_words(texts: Sequence[str]) -> str:
    """What all texts begin with, up to a colon: the task, which need not be told again and again."""
    common = os.path.commonprefix(list(texts))
    return common[: common.rindex(": ") + 2] if ": " in common else ""


def miners_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Miners side by side: true false-negative rates, hardness, rows used, cost."""
    rows = []
    for name, one in metrics["miners"].items():
        everything = one["groups"]["all"]
        rows.append(
            {
                "miner": name,
                "false negatives of anchors (%)": interval(everything["anchor"]),
                "in the whole item (%)": interval(everything["trained"]),
                "identical targets masked (%)": interval(everything["masked"]),
                "items judged": str(everything["trained"]["n"]),
                "similarity of negatives": f"{one['hardness']:.3f}",
                "of positives": f"{one['positive']:.3f}",
                "clusters": str(one["clusters"]),
                "pairs a cluster": f"{one['mean_size']:.1f}",
                "rows used (%)": f"{100 * one['rows'] / one['rows_of']:.1f}",
                "encoder passes a pair": f"{one['passes']:.1f}",
                "seconds": f"{one['seconds']:.2f}",
            }
        )
    shares = ["false negatives of anchors (%)", "in the whole item (%)", "identical targets masked (%)"]
    return mark_best(pd.DataFrame(rows), range(len(rows)), shares, lowest=True)


def false_negatives_table(metrics: Mapping[str, Any], kind: str = "trained") -> pd.DataFrame:
    """The true false-negative rate in percent by subset and miner, over all pairs of a cluster.

    Intervals are over the clusters (items) that were judged, whose number is given in the order of the miners.
    """
    subsets = next(iter(metrics["miners"].values()))["subsets"]
    rows = []
    for subset in subsets:
        row = {"subset": subset, "pairs": str(subsets[subset]["rows_of"]), "targets": str(subsets[subset]["targets"])}
        row["items judged"] = " / ".join(str(one["subsets"][subset][kind]["n"]) for one in metrics["miners"].values())
        rows.append(row | {name: interval(one["subsets"][subset][kind]) for name, one in metrics["miners"].items()})
    for group, shown in metrics["groups"].items():
        row = {"subset": f"mean of {len(shown)}: {group}", "pairs": "–", "targets": "–"}
        row["items judged"] = " / ".join(str(one["groups"][group][kind]["n"]) for one in metrics["miners"].values())
        rows.append(row | {name: interval(one["groups"][group][kind]) for name, one in metrics["miners"].items()})
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(metrics["miners"]), by_row=True, lowest=True)


def false_negatives_figure(metrics: Mapping[str, Any]) -> Figure:
    """True false negatives among the mined ones, by miner and group of subsets, with 95 % intervals over items."""
    use_style()
    groups = list(metrics["groups"])
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 2.4))
    series = {name: [one["groups"][g]["trained"] for g in groups] for name, one in metrics["miners"].items()}
    bars(axis, [f"{group}\n({len(metrics['groups'][group])} subsets)" for group in groups], series)
    axis.set_ylabel("false negatives (%)")
    figure.tight_layout(pad=0.4)
    legend_above(figure, axis, columns=len(series))
    return figure


def tradeoff_figure(metrics: Mapping[str, Any]) -> Figure:
    """False negatives against hardness: a good miner's negatives are similar (right) and still wrong answers (low)."""
    use_style()
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS * 0.62, 2.6))
    for index, (name, one) in enumerate(metrics["miners"].items()):
        style = {
            "label": name,
            "linestyle": "none",
            "markersize": 8 - 0.9 * index,  # smaller and smaller, so that none hides another
            "capsize": 5,
            "ecolor": "black",
        }
        points(axis, [one["hardness"]], [one["groups"]["all"]["trained"]], index, **style)
    axis.set(xlabel="mean similarity of negatives to the query", ylabel="false negatives (%)")
    axis.set_ylim(bottom=0)
    axis.margins(x=0.15)
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout(pad=0.4)
    return figure


def histograms_figure(histograms: Mapping[str, Any]) -> Figure:
    """Similarity to the query of its positive, of true hard negatives and of false negatives, for each miner."""
    use_style()
    miners, edges = histograms["miners"], np.array(histograms["edges"])
    figure, axes = plt.subplots(1, len(miners), figsize=(TWO_COLUMNS, 2.3), sharex=True, sharey=True, squeeze=False)
    for axis, (name, kinds) in zip(axes[0], miners.items(), strict=True):
        for index, (kind, counts) in zip((0, 2, 5), kinds.items(), strict=True):
            if total := sum(counts):
                colour, shares = COLOURS[index], 100 * np.array(counts) / total
                if index == 5:  # what must not be mined: a filled shape under the two lines
                    axis.stairs(shares, edges, color=colour, fill=True, label=kind, zorder=1)
                else:
                    line = "-" if index == 0 else (0, (3, 1))
                    axis.stairs(shares, edges, color=colour, linestyle=line, linewidth=1.3, label=kind, zorder=2)
        axis.set_title(name)
        axis.set_xlabel("cosine")
    used = np.flatnonzero(np.sum([list(kinds.values()) for kinds in miners.values()], axis=(0, 1)))
    axes[0][0].set_xlim(edges[used[0]] - 0.03, edges[used[-1] + 1] + 0.03)
    axes[0][0].xaxis.set_major_locator(MaxNLocator(3, steps=[2.5, 5]))
    axes[0][0].xaxis.set_major_formatter("{x:g}")
    axes[0][0].set_ylabel("share of a kind (%)")
    figure.tight_layout(pad=0.4)
    legend_above(figure, axes[0][0], columns=3)
    return figure


def histograms_table(histograms: Mapping[str, Any]) -> pd.DataFrame:
    """How many similarities of each kind were looked at, and their means."""
    edges = np.array(histograms["edges"])
    middle = (edges[:-1] + edges[1:]) / 2
    rows = []
    for name, kinds in histograms["miners"].items():
        row: dict[str, Any] = {"miner": name}
        for kind, counts in kinds.items():
            total = sum(counts)
            row |= {f"{kind}: mean": f"{np.dot(middle, counts) / total:.2f}" if total else "–", f"{kind}: n": total}
        rows.append(row)
    return pd.DataFrame(rows)


def clusters_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """SaHa's clusters by subset."""
    rows = []
    for name, one in metrics["miners"]["saha"]["subsets"].items():
        rows.append(
            {
                "subset": name,
                "pairs": str(one["rows_of"]),
                "distinct targets": str(one["targets"]),
                "clusters": str(one["clusters"]),
                "pairs a cluster": f"{one['mean_size']:.1f}",
                "rows used (%)": f"{100 * one['rows'] / one['rows_of']:.1f}",
                "similarity of negatives": f"{one['hardness']:.3f}",
                "of positives": f"{one['positive']:.3f}",
            }
        )
    return pd.DataFrame(rows)
