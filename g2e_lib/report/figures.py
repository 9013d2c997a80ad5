"""Figures of scores and measurements, from stored results only: no model, no torch."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from g2e_lib.report.fact_tables import PARTS
from g2e_lib.report.look import (
    COLOURS,
    HATCHES,
    LINES,
    ONE_COLUMN,
    TWO_COLUMNS,
    bars,
    curves,
    finish,
    grid,
    horizontal,
    legend_beside,
    listed,
    look,
    panels,
    points,
)
from g2e_lib.report.registry import figure
from g2e_lib.report.score_tables import CREPE_GROUPS, CREPE_TITLES, NEGATIVES_CURVES
from g2e_lib.report.text import QUESTIONS, TITLES, display

Metrics = Mapping[str, Any]


# --- without training ----------------------------------------------------------------------------------------------


@figure("zero_shot_prompts", needs=("zero_shot",))
def zero_shot_figure(metrics: Metrics) -> Figure:
    """hit@1 without training, by prompt and group of datasets, with 95 % intervals."""
    scores = {name: found["groups"] for name, found in metrics["prompts"].items()}
    shown = [group for group in TITLES if group in next(iter(scores.values()))]
    drawn, axes = panels(1, 1, 2.6)
    bars(axes[0][0], [TITLES[group] for group in shown], {name: [s[g] for g in shown] for name, s in scores.items()})
    axes[0][0].set_ylabel("hit@1 (%)")
    return finish(drawn, axes[0][0], columns=4)


@figure("zero_shot_datasets", needs=("zero_shot",))
def dataset_figure(metrics: Metrics) -> Figure:
    """hit@1 without training by dataset and prompt, in-distribution datasets above the others."""
    names, datasets = list(metrics["prompts"]), metrics["datasets"]
    order = sorted(datasets, key=lambda name: datasets[name]["distribution"])  # stable: meta-tasks stay together
    values = [[metrics["prompts"][p]["datasets"][d]["value"] for p in names] for d in order]
    labels = [f"{d} ({datasets[d]['distribution']})" for d in order]
    drawn, axes = panels(1, 1, 0.24 * len(order) + 1.0, TWO_COLUMNS * 0.9)
    axis = axes[0][0]
    sns.heatmap(
        pd.DataFrame(values, index=labels, columns=names),
        annot=True, fmt=".0f", cmap="cividis", vmin=0, vmax=100, ax=axis, cbar_kws={"label": "hit@1 (%)"},
        annot_kws={"fontsize": 8},
    )  # fmt: skip
    axis.axhline(sum(datasets[name]["distribution"] == "IND" for name in order), color="white", linewidth=3)
    axis.set_xticks(axis.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
    return drawn


@figure("modality_gap", needs=("modality_gap",), may_use=("modality_gap_trained",))
def modality_gap_figure(gap: Metrics, trained: Metrics | None = None, columns: int = 4) -> Figure:
    """Images and their captions in the two main components, pairs joined; gap: the distance of the two centroids."""
    shown = gap["panels"] | (trained["panels"] if trained else {})
    drawn, axes = grid(len(shown), min(columns, len(shown)), 2.4)
    for axis, (name, panel) in zip(axes, shown.items(), strict=True):
        image, text = np.array(panel["image"]), np.array(panel["text"])
        axis.plot(*np.stack((image, text), axis=1).T.reshape(2, 2, -1), color="0.8", linewidth=0.4, zorder=1)
        axis.scatter(*image.T, s=9, color=COLOURS[1], marker="o", linewidth=0, label="image", zorder=2)
        axis.scatter(*text.T, s=11, color=COLOURS[2], marker="^", linewidth=0, label="caption", zorder=2)
        distance = panel["gap"]["centroid_distance"]
        axis.set_title(f"{display(name)}\ngap {distance['value']:.2f} [{distance['low']:.2f}, {distance['high']:.2f}]")
        axis.set(xticks=[], yticks=[])
    return finish(drawn, axes[0], columns=2)


@figure("attention", needs=("attention",))
def attention_figure(attention: Metrics) -> Figure:
    """Share of the pooled token's attention by layer, under each prompt: heads averaged, 95 % intervals over items."""
    prompts = attention["prompts"]
    drawn, axes = panels(2, len(prompts), 3.4, sharex=True, sharey=True)
    for column, (name, kinds) in enumerate(prompts.items()):
        for axis, (kind, layers) in zip(axes[:, column], kinds.items(), strict=True):
            for index, part in enumerate(PARTS):
                places = [number + 0.06 * (index - 1.5) for number in range(1, len(layers) + 1)]
                shares = [layer[part] if layer[part]["high"] > 0 else None for layer in layers]
                points(axis, places, shares, index + 1, label=PARTS[part], markersize=3.5)
            axis.set_xticks(range(1, len(layers) + 1))
            axis.set_ylim(-4, 104)
            axis.set_ylabel(f"{kind}: share (%)" if column == 0 else "")
        axes[0][column].set_title(name)
        axes[1][column].set_xlabel("layer")
    return finish(drawn, axes[0][0], columns=len(PARTS), pad=0.5)


# --- mining --------------------------------------------------------------------------------------------------------


@figure("false_negatives", needs=("mining",))
def false_negatives_figure(metrics: Metrics) -> Figure:
    """True false negatives among the mined ones, by miner and group of subsets, with 95 % intervals over items."""
    groups = metrics["groups"]
    drawn, axes = panels(1, 1, 2.4)
    series = {name: [found["groups"][g]["trained"] for g in groups] for name, found in metrics["miners"].items()}
    bars(axes[0][0], [f"{group}\n({len(subsets)} subsets)" for group, subsets in groups.items()], series)
    axes[0][0].set_ylabel("false negatives (%)")
    return finish(drawn, axes[0][0], columns=len(series))


@figure("miner_tradeoff", needs=("mining",))
def tradeoff_figure(metrics: Metrics) -> Figure:
    """False negatives against hardness: a good miner's negatives are similar (right) and still wrong answers (low)."""
    drawn, axes = panels(1, 1, 2.6, TWO_COLUMNS * 0.62)
    axis = axes[0][0]
    for index, (name, found) in enumerate(metrics["miners"].items()):
        size = 8 - 0.9 * index  # smaller and smaller, so that none hides another
        style = {"label": name, "linestyle": "none", "markersize": size, "capsize": 5, "ecolor": "black"}
        points(axis, [found["hardness"]], [found["groups"]["all"]["trained"]], index, **style)
    axis.set(xlabel="mean similarity of negatives to the query", ylabel="false negatives (%)")
    axis.set_ylim(bottom=0)
    axis.margins(x=0.15)
    legend_beside(axis)
    return finish(drawn)


@figure("similarities", needs=("similarities",))
def histograms_figure(histograms: Metrics) -> Figure:
    """Similarity to the query of its positive, of true hard negatives and of false negatives, for each miner."""
    miners, edges = histograms["miners"], np.array(histograms["edges"])
    drawn, axes = panels(1, len(miners), 2.3, sharex=True, sharey=True)
    for axis, (name, kinds) in zip(axes[0], miners.items(), strict=True):
        for index, (kind, counts) in zip((0, 2, 5), kinds.items(), strict=True):
            if total := sum(counts):  # what must not be mined is a filled shape under the two lines
                style = {"fill": True, "zorder": 1} if index == 5 else {"linewidth": 1.3, "zorder": 2}
                style |= {2: {"linestyle": (0, (3, 1))}, 0: {"linestyle": "-"}}.get(index, {})
                axis.stairs(100 * np.array(counts) / total, edges, color=COLOURS[index], label=kind, **style)
        axis.set_title(name)
        axis.set_xlabel("cosine")
    used = np.flatnonzero(np.sum([list(kinds.values()) for kinds in miners.values()], axis=(0, 1)))
    first = axes[0][0]
    first.set_xlim(edges[used[0]] - 0.03, edges[used[-1] + 1] + 0.03)
    first.xaxis.set_major_locator(MaxNLocator(3, steps=[2.5, 5]))
    first.xaxis.set_major_formatter("{x:g}")
    first.set_ylabel("share of a kind (%)")
    return finish(drawn, first, columns=3)


# --- training ------------------------------------------------------------------------------------------------------


@figure("training", needs=("training",))
def training_figure(metrics: Metrics) -> Figure:
    """hit@1 of every way of training: overall, in and out of distribution, with 95 % intervals over queries."""
    methods = {display(key): method for key, method in metrics["methods"].items()}
    drawn, axes = panels(1, 3, 0.3 * len(methods) + 0.9, sharey=True)
    for axis, group in zip(axes[0], ("overall", "IND", "OOD"), strict=True):
        found = [method["groups"].get(group) for method in methods.values()]
        listed(axis, list(methods), found, range(len(methods)))
        axis.set_title(f"{group}: hit@1 (%)")
        axis.margins(x=0.1, y=0.15)
    return finish(drawn, pad=0.5)


@figure("training_datasets", needs=("training",))
def training_datasets_figure(metrics: Metrics) -> Figure:
    """hit@1 of every way of training on every dataset, in and out of distribution apart, with 95 % intervals."""
    titles = {"IND": "in distribution (IND)", "OOD": "out of distribution (OOD)"}
    sides = {side: [n for n, d in metrics["datasets"].items() if d["distribution"] == side] for side in titles}
    sides = {side: names for side, names in sides.items() if names}
    drawn, axes = panels(1, len(sides), 0.33 * max(map(len, sides.values())) + 0.7, sharex=True)
    methods = metrics["methods"]
    step = 0.72 / len(methods)
    for axis, (side, names) in zip(axes[0], sides.items(), strict=True):
        for index, (key, method) in enumerate(methods.items()):
            for row, name in enumerate(names):
                place = -row - step * (index - (len(methods) - 1) / 2)
                horizontal(axis, place, method["datasets"][name], index, display(key) if row == 0 else "_")
        for row in range(len(names) - 1):
            axis.axhline(-row - 0.5, color="0.8", linewidth=0.6)
        axis.set_yticks([-row for row in range(len(names))], names)
        axis.set(title=titles[side], xlabel="hit@1 (%)")
        axis.set_ylim(0.5 - len(names), 0.5)
        axis.grid(visible=False, axis="y")
    return finish(drawn, axes[0][0], columns=3, pad=0.5)


TRAINING_CURVES = {
    "loss": "loss (nats)",
    "gradient_norm": "gradient norm",
    "hardest_negative_similarity": "similarity, hardest negative",
    "positive_similarity": "similarity, positive",
}


@figure("training_curves", needs=("training",))
def curves_figure(metrics: Metrics) -> Figure:
    """Loss, gradient norm and similarities over the steps: means of seeds, shaded between their extremes."""
    drawn, axes = panels(2, 2, 3.8, sharex=True)
    trained = {key: method["log"] for key, method in metrics["methods"].items() if method["log"]}
    for axis, (field, label) in zip(axes.flat, TRAINING_CURVES.items(), strict=True):
        for index, (key, logs) in enumerate(trained.items(), 1):  # 0 is the look of no training
            every = (index, max(1, len(logs[0]) // 6))
            style = look(index) | {"markevery": every, "markersize": 4, "linewidth": 1.1}
            curves(axis, logs, field, 0.18, label=display(key), **style)
        axis.set_title(label)
    for upper, lower in axes.T:
        upper.set_yscale("log")
        lower.set_xlabel("step")
    return finish(drawn, axes[0][0], columns=2, pad=0.5)


@figure("data_efficiency", needs=("ablations",))
def data_efficiency_figure(metrics: Metrics) -> Figure | None:
    """hit@1 by share of the training pairs, at the same number of steps, with 95 % intervals."""
    if not _is_asked(metrics, "fraction"):
        return None
    keys = metrics["questions"]["fraction"]
    shares = [100 * float(key.partition("=")[2]) for key in keys]
    drawn, axes = panels(1, 1, 2.4, ONE_COLUMN * 1.25)
    axis = axes[0][0]
    for index, (group, shift) in enumerate((("IND", 0.97), ("overall", 1), ("OOD", 1.03))):
        found = [metrics["methods"][key]["groups"].get(group) for key in keys]
        points(axis, [share * shift for share in shares], found, index, label=group, capsize=2.5)
    axis.set(xscale="log", xlabel="share of the training pairs (%)", ylabel="hit@1 (%)")
    axis.set_xticks(shares, [f"{share:g}" for share in shares])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    legend_beside(axis)
    return finish(drawn)


@figure("unime_ablations", needs=("unime_ablations",))
@figure("ablations", needs=("ablations",))
def ablation_panel_figure(metrics: Metrics, columns: int = 2) -> Figure | None:
    """All ablations at once: the overall difference to the base setting in points, with 95 % intervals."""
    asked = {name: settings for name, settings in metrics["questions"].items() if _is_asked(metrics, name)}
    if not asked:
        return None
    zero = {"value": 0.0, "low": 0.0, "high": 0.0}
    drawn, axes = grid(len(asked), columns, 0.21 * max(map(len, asked.values())) + 0.5, sharex=True)
    for axis, (question, settings) in zip(axes, asked.items(), strict=True):
        is_base = [key in metrics["base_names"] for key in settings]
        differences = metrics["differences"][metrics["base"]]
        found = [zero if base else differences[key]["overall"] for key, base in zip(settings, is_base, strict=True)]
        listed(axis, _setting_labels(metrics, settings, 40), found, [0 if base else 1 for base in is_base])
        axis.axvline(0, color="0.3", linewidth=0.8, zorder=0)
        axis.set_ylim(-len(settings) + 0.4, 0.6)
        axis.set_title(QUESTIONS.get(question, question))
    axes[0].xaxis.set_major_formatter("{x:+g}")
    for axis in axes[(len(axes) - 1) // columns * columns :]:  # of the last row
        axis.set_xlabel("against base (points of hit@1)")
    return finish(drawn, pad=0.5)


def ablation_figure(metrics: Metrics, question: str) -> Figure | None:
    """One thing changed at a time: overall, IND and OOD by setting, with 95 % intervals; the base setting is marked."""
    if not _is_asked(metrics, question):
        return None
    keys = metrics["questions"][question]
    drawn, axes = panels(1, 1, 2.3, max(ONE_COLUMN, 0.85 * len(keys) + 1.6))
    axis = axes[0][0]
    for index, (group, shift) in enumerate((("IND", -0.12), ("overall", 0), ("OOD", 0.12))):
        style = {"label": group, "linestyle": "none", "markersize": 5, "capsize": 2.5}
        found = [metrics["methods"][key]["groups"].get(group) for key in keys]
        points(axis, [place + shift for place in range(len(keys))], found, index, **style)
    axis.set_xticks(range(len(keys)), _setting_labels(metrics, keys, 14), fontsize=8)
    axis.set(ylabel="hit@1 (%)", title=QUESTIONS.get(question, question))
    legend_beside(axis)
    axis.margins(x=0.12)
    return finish(drawn)


for _question in QUESTIONS:
    _of = "unime_ablations" if _question in ("margin", "num_negatives", "negatives", "stages") else "ablations"
    figure(f"ablation_{_question}", needs=(_of,), question=_question, label=QUESTIONS[_question])(ablation_figure)


def _is_asked(metrics: Metrics, question: str) -> bool:
    """Whether a question has at least two settings to compare."""
    return len(metrics["questions"].get(question, ())) > 1


def _setting_labels(metrics: Metrics, keys: Sequence[str], width: int) -> list[str]:
    return [fill(display(key) + (" (base)" if key in metrics["base_names"] else ""), width) for key in keys]


# --- UniME and composition -----------------------------------------------------------------------------------------

NEGATIVES = ("hard", "random", "easy")  # in the order of colours and lines


@figure("unime_negatives", needs=("unime",))
def negatives_figure(metrics: Metrics) -> Figure:
    """Similarity of hard, random and easy negatives over training, with loss and gradient norm."""
    drawn, axes = panels(1, len(NEGATIVES_CURVES), 2.3)
    for axis, (field, label) in zip(axes[0], NEGATIVES_CURVES.items(), strict=True):
        for order, logs in metrics["negatives"].items():
            place = NEGATIVES.index(order)
            style = {"linestyle": LINES[place], "color": COLOURS[1 + place], "linewidth": 1.5}
            curves(axis, logs, field, 0.2, label=f"{order} negatives", **style)
        axis.set_xlabel("step")
        axis.set_title(label)
    for axis, linear in zip(axes[0][1:], (0.01, 0.1), strict=True):
        axis.set_yscale("symlog", linthresh=linear)
    return finish(drawn, axes[0][0], columns=3, pad=0.5)


@figure("unime_next_words", needs=("unime",))
def stages_words_figure(metrics: Metrics) -> Figure:
    """Probabilities of the likeliest next words of one image and of its caption, before and after each stage."""
    models = metrics["next_words"]
    drawn, axes = panels(2, len(models), 2.9, sharex=True)
    for column, model in enumerate(models):
        for row, (side, label) in enumerate((("image", "image"), ("text", "its caption"))):
            words, probabilities = zip(*model[side], strict=True)
            axis, places = axes[row][column], np.arange(len(words))[::-1]
            style = {"color": COLOURS[1 + row], "hatch": HATCHES[1 + row], "edgecolor": "black", "linewidth": 0.5}
            axis.barh(places, probabilities, **style)
            axis.set_yticks(places, words)
            axis.set_xlim(0, 1)
            axis.grid(visible=False, axis="y")
            axis.set_ylabel(label if column == 0 else "")
        axes[0][column].set_title(model["model"])
        axes[1][column].set_xlabel("probability")
    return finish(drawn, pad=0.5)


@figure("sugarcrepe_pp_text", needs=("sugarcrepe",), of="sugarcrepe_pp", kind="text", label="SugarCrepe++, text alone")
@figure("sugarcrepe_pp_image", needs=("sugarcrepe",), of="sugarcrepe_pp", kind="image", label="SugarCrepe++, images")
@figure("sugarcrepe", needs=("sugarcrepe",), of="sugarcrepe", kind="image", label="SugarCrepe")
def crepe_figure(metrics: Metrics, of: str, kind: str) -> Figure:
    """Share of rows that are right by method and group, with 95 % intervals; dashed: guessing."""
    methods = metrics["sets"][of][kind]
    groups = [group for group in CREPE_GROUPS if group in next(iter(methods.values()))["groups"]]
    drawn, axes = panels(1, len(groups), 0.17 * len(methods) + 0.8, sharey=True, sharex=True)
    for axis, group in zip(axes[0], groups, strict=True):
        found = [method["groups"][group] for method in methods.values()]
        listed(axis, [display(key) for key in methods], found, [0 if k.startswith("zero_shot") else 2 for k in methods])
        # One true caption against the negative is a coin; two that must both win, or be closest, one in three.
        axis.axvline(50 if of == "sugarcrepe" else 100 / 3, color="0.5", linewidth=0.8, linestyle="--")
        axis.set_title(group)
        axis.set_xlabel("right (%)")
    drawn.suptitle(CREPE_TITLES[of, kind], fontsize=9)
    return finish(drawn)
