"""Tables and figures of notebook 01: prompts without training, the modality gap, next words, and attention."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from g2e_lib.project.published import reference
from g2e_lib.report.style import (
    COLOURS,
    GROUPS,
    TITLES,
    TWO_COLUMNS,
    bars,
    interval,
    legend_above,
    mark_best,
    our_row,
    paper_row,
    points,
    use_style,
)


def prompt_tokens_table(lines: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The tokens of one prompt, a chat line a row; the pooled token is marked."""
    rows, position = [], 0
    for line in lines:
        tokens = list(line["tokens"])
        first = position
        position += sum(int(token.partition(" x ")[2] or 1) if token.startswith("<|") else 1 for token in tokens)
        if line["is_pooled"]:
            tokens[-1] += "  <- pooled"
        rows.append({"from token": first, "tokens": " | ".join(tokens)})
    return pd.DataFrame(rows)


def zero_shot_table(metrics: dict[str, Any], profile: str) -> pd.DataFrame:
    """Table 1: hit@1 without training, baseline prompt against hierarchical, beside the paper's rows.

    Args:
        metrics: metrics/zero_shot.json.
        profile: its name, shown with our rows; the numbers of `smoke` are never shown beside the paper's.
    """
    published = reference("gen2embed_mmeb").query("setting == 'zero_shot'")
    rows = [paper_row(f"paper, {row.model}: {row.method}", row) for _, row in published.iterrows()]
    rows = [] if profile == "smoke" else rows
    prompts, differences = metrics["prompts"], metrics["differences"].get("none", {})
    for name, label in (("none", "no prompt"), ("hierarchical", "hierarchical prompt")):
        if name in prompts:
            rows.append(our_row(f"{profile}: {label}", prompts[name]["groups"]))
    ours = [number for number, row in enumerate(rows) if row[""].startswith(f"{profile}:")]
    if "hierarchical" in differences:
        rows.append(our_row("difference, paired", differences["hierarchical"], signed=True))
    return mark_best(pd.DataFrame(rows), ours, list(TITLES.values()))


def prompt_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The prompt ablation: hit@1 of every prompt by meta-task and distribution."""
    rows = [our_row(name, one["groups"]) for name, one in metrics["prompts"].items()]
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(TITLES.values()))


def difference_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """Prompts against no prompt and against the hierarchical one, in points, paired on the same queries."""
    rows = [
        our_row(f"{name} - {baseline}", one, signed=True)
        for baseline, others in metrics["differences"].items()
        for name, one in others.items()
    ]
    return pd.DataFrame(rows)


def dataset_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """hit@1 of every prompt on every dataset, with the chance level; * marks what is no better than chance."""
    rows = []
    for name, info in metrics["datasets"].items():
        head = {"dataset": name, "meta-task": info["meta_task"], "IND/OOD": info["distribution"], "n": info["n"]}
        head |= {"chance": f"{info['chance']:.1f}"}
        for prompt, one in metrics["prompts"].items():
            estimate = one["datasets"][name]
            head[prompt] = interval(estimate) + ("*" if estimate["low"] <= info["chance"] else "")
        rows.append(head)
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(metrics["prompts"]), by_row=True)


def zero_shot_figure(metrics: dict[str, Any]) -> Figure:
    """hit@1 without training, by prompt and group of datasets, with 95 % intervals."""
    use_style()
    names = list(metrics["prompts"])
    shown = [group for group in GROUPS if group in metrics["prompts"][names[0]]["groups"]]
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 2.6))
    series = {name: [metrics["prompts"][name]["groups"][group] for group in shown] for name in names}
    bars(axis, [TITLES[group] for group in shown], series)
    axis.set_ylabel("hit@1 (%)")
    figure.tight_layout(pad=0.4)
    legend_above(figure, axis, columns=4)
    return figure


def dataset_figure(metrics: dict[str, Any]) -> Figure:
    """hit@1 without training by dataset and prompt, in-distribution datasets above the others."""
    use_style()
    names, datasets = list(metrics["prompts"]), metrics["datasets"]
    order = sorted(datasets, key=lambda name: datasets[name]["distribution"])  # stable: meta-tasks stay together
    values = [[metrics["prompts"][p]["datasets"][d]["value"] for p in names] for d in order]
    labels = [f"{d} ({datasets[d]['distribution']})" for d in order]
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS * 0.9, 0.24 * len(order) + 1.0))
    sns.heatmap(
        pd.DataFrame(values, index=labels, columns=names),
        annot=True, fmt=".0f", cmap="cividis", vmin=0, vmax=100, ax=axis, cbar_kws={"label": "hit@1 (%)"},
        annot_kws={"fontsize": 8},
    )  # fmt: skip
    boundary = sum(datasets[name]["distribution"] == "IND" for name in order)
    axis.axhline(boundary, color="white", linewidth=3)
    axis.set_xticks(axis.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
    return figure


# --- the modality gap, and why -------------------------------------------------------------------------------------


def modality_gap_figure(gap: Mapping[str, Any], trained: Mapping[str, Any] | None = None, columns: int = 4) -> Figure:
    """Images and their captions in the two main components, pairs joined; gap: the distance of the two centroids.

    Args:
        gap: metrics/modality_gap.json, by prompt.
        trained: metrics/modality_gap_trained.json of the same shape, after training, if there is one.
        columns: panels in a row.
    """
    use_style()
    panels = gap["panels"] | (trained["panels"] if trained else {})
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(TWO_COLUMNS, 2.4 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (name, panel) in zip(axes.flat, panels.items(), strict=False):
        image, text = np.array(panel["image"]), np.array(panel["text"])
        axis.plot(*np.stack((image, text), axis=1).T.reshape(2, 2, -1), color="0.8", linewidth=0.4, zorder=1)
        axis.scatter(*image.T, s=9, color=COLOURS[1], marker="o", linewidth=0, label="image", zorder=2)
        axis.scatter(*text.T, s=11, color=COLOURS[2], marker="^", linewidth=0, label="caption", zorder=2)
        distance = panel["gap"]["centroid_distance"]
        axis.set_title(f"{name}\ngap {distance['value']:.2f} [{distance['low']:.2f}, {distance['high']:.2f}]")
        axis.set(xticks=[], yticks=[])
    figure.tight_layout(pad=0.4)
    legend_above(figure, axes[0][0], columns=2)
    return figure


def next_words_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The likeliest next words after an image and after its caption, by prompt."""
    shown = [
        {
            "prompt": one["prompt"],
            "image": ", ".join(f"{w} {p:.2f}" for w, p in one["image"]),
            "caption": ", ".join(f"{w} {p:.2f}" for w, p in one["text"]),
            "shared probability (%)": interval(one["overlap"]),
            "n": one["overlap"]["n"],
        }
        for one in metrics["prompts"]
    ]
    return pd.DataFrame(shown)


def modality_gap_table(gap: Mapping[str, Any], trained: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """The modality gap in numbers: by prompt without training, and after training where that was measured."""
    rows = []
    for name, panel in (gap["panels"] | (trained["panels"] if trained else {})).items():
        cells = {
            title: "{value:.3f} [{low:.3f}, {high:.3f}]".format(**panel["gap"][key])
            for key, title in (("centroid_distance", "centroid distance"), ("paired_cosine", "cosine of pairs"))
        }
        rows.append({"prompt": name, **cells, "n": panel["gap"]["centroid_distance"]["n"]})
    return pd.DataFrame(rows)


PARTS = {"system": "system message", "image": "image", "user": "user's text", "assistant": "chat format"}


def attention_figure(attention: Mapping[str, Any]) -> Figure:
    """Share of the pooled token's attention by layer, under each prompt: heads averaged, 95 % intervals over items."""
    use_style()
    prompts = attention["prompts"]
    figure, axes = plt.subplots(2, len(prompts), figsize=(TWO_COLUMNS, 3.4), sharex=True, sharey=True, squeeze=False)
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
    figure.tight_layout(pad=0.5)
    legend_above(figure, axes[0][0], columns=len(PARTS))
    return figure


def attention_table(attention: Mapping[str, Any]) -> pd.DataFrame:
    """Share of the pooled token's attention (%) by prompt, kind of item and layer."""
    rows = []
    for name, kinds in attention["prompts"].items():
        for kind, layers in kinds.items():
            for number, layer in enumerate(layers, 1):
                cells = {title: interval(layer[part]) for part, title in PARTS.items()}
                rows.append({"prompt": name, "item": kind, "layer": number, **cells, "n": layer["image"]["n"]})
    return pd.DataFrame(rows)
