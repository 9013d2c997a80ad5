"""Tables and figures of SugarCrepe and SugarCrepe++, from stored results only: no model, no torch."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from g2e_lib.project.published import reference
from g2e_lib.report.style import COLOURS, TWO_COLUMNS, horizontal, interval, mark_best, use_style

CREPE_GROUPS = ("replace", "swap", "add", "mean")
TITLES = {
    ("sugarcrepe", "image"): "SugarCrepe",
    ("sugarcrepe_pp", "image"): "SugarCrepe++, image to text",
    ("sugarcrepe_pp", "text"): "SugarCrepe++, text alone",
}


def crepe_table(metrics: Mapping[str, Any], profile: str, name: str, kind: str) -> pd.DataFrame:
    """Share of rows that are right in percent, by subset and group; groups and mean weigh subsets alike.

    Args:
        metrics: metrics/sugarcrepe.json.
        profile: its name; the papers' rows, which exist for SugarCrepe's groups, are left out for `smoke`.
        name: "sugarcrepe" or "sugarcrepe_pp".
        kind: "image" or "text".
    """
    methods = metrics["sets"][name][kind]
    subsets, groups = (list(next(iter(methods.values()))[key]) for key in ("subsets", "groups"))
    rows = []
    if name == "sugarcrepe" and profile != "smoke":
        for _, row in reference("unime_retrieval").iterrows():
            cells = {group: f"{row[f'sugarcrepe_{group}']:.1f}" for group in groups if f"sugarcrepe_{group}" in row}
            empty = dict.fromkeys([*groups, *subsets, "n"], "–")
            rows.append({"": f"paper, {row.model} {row.params}: {row.method}", **empty, **cells})
    for method, one in methods.items():
        cells = {key: interval(one["groups"][key]) for key in groups}
        cells |= {key: interval(one["subsets"][key]) for key in subsets}
        rows.append({"": f"{profile}: {method}", **cells, "n": str(one["groups"]["mean"]["n"])})
    ours = list(range(len(rows) - len(methods), len(rows)))
    return mark_best(pd.DataFrame(rows), ours, [*groups, *subsets])


def crepe_differences_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Methods against their baselines on the same rows, in points, by set and group."""
    rows = []
    for (name, kind), title in TITLES.items():
        for baseline, others in metrics["differences"].get(name, {}).get(kind, {}).items():
            for method, groups in others.items():
                cells = {g: interval(groups[g], signed=True) if g in groups else "–" for g in CREPE_GROUPS}
                rows.append(
                    {"set": title, "difference": f"{method} - {baseline}", **cells, "n": str(groups["mean"]["n"])}
                )
    return pd.DataFrame(rows)


def crepe_figure(metrics: Mapping[str, Any], name: str, kind: str) -> Figure:
    """Share of rows that are right by method and group, with 95 % intervals; dashed: guessing."""
    use_style()
    methods = metrics["sets"][name][kind]
    groups = [g for g in CREPE_GROUPS if g in next(iter(methods.values()))["groups"]]
    size = (TWO_COLUMNS, 0.17 * len(methods) + 0.8)
    figure, axes = plt.subplots(1, len(groups), figsize=size, sharey=True, sharex=True)
    for axis, group in zip(axes, groups, strict=True):
        for place, (method, one) in enumerate(methods.items()):
            horizontal(axis, -place, one["groups"][group], 0 if method.startswith("zero-shot") else 2, method)
        # One true caption against the negative is a coin; two that must both win, or be closest, one in three.
        axis.axvline(50 if name == "sugarcrepe" else 100 / 3, color="0.5", linewidth=0.8, linestyle="--")
        axis.set_title(group)
        axis.set_xlabel("right (%)")
    axes[0].set_yticks([-place for place in range(len(methods))], list(methods))
    figure.suptitle(TITLES[name, kind], fontsize=9)
    figure.tight_layout(pad=0.4)
    return figure


def crepe_gallery_figure(metrics: Mapping[str, Any], results: Path) -> Figure:
    """For each method and group the row it gets most wrong, with both captions.

    Args:
        metrics: metrics/sugarcrepe.json.
        results: folder that the paths of images are relative to.
    """
    use_style()
    methods = [m for m in metrics["gallery"] if not m.startswith("zero-shot") or m.endswith(": hierarchical")]
    groups = CREPE_GROUPS[:-1]
    figure, axes = plt.subplots(len(methods), len(groups), figsize=(TWO_COLUMNS, 1.05 * len(methods)), squeeze=False)
    for line, method in zip(axes, methods, strict=True):
        shown = {one["group"]: one for one in metrics["gallery"][method]}
        for axis, group in zip(line, groups, strict=True):
            axis.set_axis_off()
            axis.set_xlim(0, 3.2)
            axis.set_ylim(1, 0)
            if group not in shown:
                axis.text(0.1, 0.5, f"{group}: no row is wrong", fontsize=7, va="center")
                continue
            one = shown[group]
            with Image.open(results / one["image"]) as image:
                axis.imshow(np.asarray(image.convert("RGB")), extent=(0, 1, 1, 0), aspect="equal")
            axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor="0.6", linewidth=0.5))
            head = f"{one['subset']} ({group}: {one['wrong']} of {one['of']} wrong)"
            texts = ((0.0, head, "black"), (0.22, f"true: {one['caption']}", COLOURS[1]))
            texts += ((0.62, f"preferred: {one['negative']} (by {-one['margin']:.2f})", COLOURS[2]),)
            for height, text, colour in texts:
                axis.text(1.06, height, fill(text, 40), fontsize=5, color=colour, va="top")
            axis.set_xlim(0, 3.2)
        line[0].text(-0.05, 0.5, fill(method, 16), rotation=90, fontsize=6, ha="right", va="center")
    figure.tight_layout(pad=0.3)
    return figure
