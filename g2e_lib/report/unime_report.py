"""Tables and figures of UniME, from stored results only: no model, no torch."""

from collections.abc import Mapping
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from g2e_lib.project.published import reference
from g2e_lib.report.style import (
    COLOURS,
    HATCHES,
    LINES,
    TITLES,
    TWO_COLUMNS,
    interval,
    legend_above,
    mark_best,
    our_row,
    paper_row,
    seed_spread,
    use_style,
)

TASKS = {"short_i2t": "short, i→t", "short_t2i": "short, t→i", "long_i2t": "long, i→t", "long_t2i": "long, t→i"}
# The published sets that stand beside ours: columns of the reference in the order of TASKS.
PUBLISHED = {
    "Flickr30K / ShareGPT4V": ("flickr30k_i2t", "flickr30k_t2i", "sharegpt4v_i2t", "sharegpt4v_t2i"),
    "COCO / Urban1K": ("coco_i2t", "coco_t2i", "urban1k_i2t", "urban1k_t2i"),
}
NEGATIVES = ("hard", "random", "easy")  # in the order of colours and lines
CURVES = {
    "negative_similarity": "mean similarity of negatives",
    "loss": "loss (nats)",
    "gradient_norm": "gradient norm before clipping",
}


def teacher_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The text teacher: what it is, and how well it finds a paraphrase among all."""
    teacher = metrics["teacher"]
    rows = {k: str(v) for k, v in teacher.items() if k != "recall"}
    if "recall" in teacher:
        rows["finds the paraphrase, recall at 1 (%)"] = f"{interval(teacher['recall'])}, n = {teacher['recall']['n']}"
    return pd.DataFrame({"teacher": list(rows), "value": list(rows.values())})


def unime_table(metrics: Mapping[str, Any], profile: str) -> pd.DataFrame:
    """UniME's MMEB table: its stages beside the other ways of training, and paired differences."""
    rows = []
    if profile != "smoke":
        published = reference("unime_mmeb").query("method in ('E5-V', 'VLM2Vec', 'UniME stage 1', 'UniME stage 1+2')")
        rows = [
            paper_row(f"paper, {r.model} {r.params}: {r.method}", r) | {"seeds": "–"} for _, r in published.iterrows()
        ]
    for name, arm in metrics["arms"].items():
        rows.append(our_row(f"{profile}: {name}", arm["groups"]) | {"seeds": seed_spread(arm["overall_by_seed"])})
    ours = [number for number, row in enumerate(rows) if row[""].startswith(f"{profile}:")]
    for baseline, others in metrics["differences"].items():
        for name, one in others.items():
            spread = {"seeds": seed_spread(one["overall_by_seed"])}
            rows.append(our_row(f"{name} - {baseline}", one, signed=True) | spread)
    return mark_best(pd.DataFrame(rows), ours, list(TITLES.values()))


def retrieval_table(metrics: Mapping[str, Any], profile: str) -> pd.DataFrame:
    """UniME's retrieval table: recall at 1 in percent with short and long captions, image to text and text to image."""
    rows = []
    published = reference("unime_retrieval")
    for _, row in published.iterrows() if profile != "smoke" else ():
        for sets, columns in PUBLISHED.items():
            cells = {title: f"{row[c]:.1f}" for c, title in zip(columns, TASKS.values(), strict=True)}
            label = f"paper, {row.model} {row.params}: {row.method}"
            rows.append({"": label, "captions": sets, **cells, "n": "–"})
    captions = metrics["retrieval_name"]
    for name, tasks in metrics["retrieval"].items():
        cells = {title: interval(tasks[task]) if task in tasks else "–" for task, title in TASKS.items()}
        n = " / ".join(str(tasks[task]["n"]) for task in ("short_i2t", "long_i2t"))
        rows.append({"": f"{profile}: {name}", "captions": captions, **cells, "n": n})
    ours = list(range(len(rows) - len(metrics["retrieval"]), len(rows)))
    return mark_best(pd.DataFrame(rows), ours, list(TASKS.values()))


def filter_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """What the filter does in truth: right answers among the chosen negatives, and right answers that it drops."""
    rows = []
    for moment, one in metrics["filter"].items():
        for name, rate in one["rates"].items():
            difference, dropped = one["differences"].get(name), one["dropped"].get(name)
            rows.append(
                {
                    "model": moment,
                    "filter": name,
                    "right answers among negatives (%)": interval(rate),
                    "against no filter (points)": interval(difference, signed=True) if difference else "–",
                    "right answers of the batch dropped (%)": interval(dropped) if dropped else "–",
                    "n (queries)": str(rate["n"]),
                }
            )
    return pd.DataFrame(rows)


def negatives_figure(metrics: Mapping[str, Any]) -> Figure:
    """Similarity of hard, random and easy negatives over training, with loss and gradient norm."""
    use_style()
    figure, axes = plt.subplots(1, len(CURVES), figsize=(TWO_COLUMNS, 2.3))
    for axis, (field, label) in zip(axes, CURVES.items(), strict=True):
        for order, logs in metrics["negatives"].items():
            colour, line = COLOURS[1 + NEGATIVES.index(order)], LINES[NEGATIVES.index(order)]
            values = np.array([[record[field] for record in log] for log in logs])
            steps = [record["step"] for record in logs[0]]
            axis.plot(steps, values.mean(0), linestyle=line, color=colour, linewidth=1.5, label=f"{order} negatives")
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.set_xlabel("step")
        axis.set_title(label)
    for axis in axes[1:]:
        axis.set_yscale("symlog", linthresh=0.01 if axis is axes[1] else 0.1)
    figure.tight_layout(pad=0.5)
    legend_above(figure, axes[0], columns=3)
    return figure


def negatives_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """Means over all steps by kind of negatives, and what hard ones have more; intervals over steps."""

    def cells(estimates: Mapping[str, Any], signed: bool = False) -> dict[str, str]:
        form = "{value:+.3f} [{low:+.3f}, {high:+.3f}]" if signed else "{value:.3f} [{low:.3f}, {high:.3f}]"
        return {CURVES[field]: form.format(**one) for field, one in estimates.items()}

    means, differences = metrics["negatives_means"], metrics["negatives_differences"]
    rows = [{"negatives": order, **cells(one), "n": str(one["loss"]["n"])} for order, one in means.items()]
    for order, one in differences.items():
        rows.append({"negatives": f"hard - {order}", **cells(one, signed=True), "n": str(one["loss"]["n"])})
    return pd.DataFrame(rows)


def stages_words_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """The likeliest next words after an image and after its caption, before and after each stage."""
    rows = []
    for one in metrics["next_words"]:
        words = {side: ", ".join(f"{w} {p:.2f}" for w, p in one[side]) for side in ("image", "text")}
        row = {"model": one["model"], "image": words["image"], "caption": words["text"]}
        rows.append({**row, "shared probability (%)": interval(one["overlap"]), "n": str(one["overlap"]["n"])})
    return pd.DataFrame(rows)


def stages_words_figure(metrics: Mapping[str, Any]) -> Figure:
    """Probabilities of the likeliest next words of one image and of its caption, before and after each stage."""
    use_style()
    models = metrics["next_words"]
    figure, axes = plt.subplots(2, len(models), figsize=(TWO_COLUMNS, 2.9), sharex=True, squeeze=False)
    for column, one in enumerate(models):
        for row, (side, label) in enumerate((("image", "image"), ("text", "its caption"))):
            words, probabilities = zip(*one[side], strict=True)
            axis, places = axes[row][column], np.arange(len(words))[::-1]
            axis.barh(
                places, probabilities, color=COLOURS[1 + row], edgecolor="black", linewidth=0.5, hatch=HATCHES[1 + row]
            )
            axis.set_yticks(places, words)
            axis.set_xlim(0, 1)
            axis.grid(visible=False, axis="y")
            axis.set_ylabel(label if column == 0 else "")
        axes[0][column].set_title(one["model"])
        axes[1][column].set_xlabel("probability")
    figure.tight_layout(pad=0.5)
    return figure
