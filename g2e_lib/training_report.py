"""Tables and figures of mining, training and ablations, from stored results only: no model, no torch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from g2e_lib.report import (
    NOT_REPRODUCED,
    REPRODUCED,
    TWO_COLUMNS,
    difference_claim,
    interval,
    our_row,
    paper_row,
    reference,
    save_figure,
    use_style,
)

FATES = {
    "kept": "#0072B2",
    "too similar in query space": "#D55E00",
    "own positive": "#009E73",
    "not looked at": "0.6",
}


# --- mining --------------------------------------------------------------------------------------------------------


def steps_table(steps: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """What became of each target retrieved for one anchor, in order."""
    rows = []
    for rank, step in enumerate(steps, 1):
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


def steps_figure(anchor: Mapping[str, Any], steps: Sequence[Mapping[str, Any]], columns: int = 6) -> Figure:
    """One anchor and its retrieved targets, nearest first: target, owner's query, both similarities, and its fate.

    Args:
        anchor: `text` and `image` (a path or None) of the query.
        steps: see glyphworld.truth.explain_anchor.
        columns: panels in a row.
    """
    use_style()
    lines = -(-(len(steps) + 1) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(TWO_COLUMNS, 2.0 * lines), squeeze=False)
    panels = axes.flatten()
    _draw_item(panels[0], anchor)
    panels[0].set_title("the query", fontsize=8, fontweight="bold")
    for axis, (rank, step) in zip(panels[1:], enumerate(steps, 1), strict=False):
        _draw_item(axis, {"text": step["target_text"], "image": step["target_image"]}, FATES[step["fate"]])
        right = "\nin truth a right answer" if step["is_right"] and step["fate"] != "own positive" else ""
        fate = "dropped" if step["fate"].startswith("too similar") else step["fate"]
        axis.set_title(f"{rank}. {fate}{right}", fontsize=6, color=FATES[step["fate"]])
        owner = f"owner: {step['owner_text']}\n" if step["owner"] >= 0 else ""
        queries = f", queries {step['owner_cosine']:.2f}" if step["owner"] >= 0 else ""
        axis.set_xlabel(fill(owner, 30) + f"\ntarget {step['target_cosine']:.2f}{queries}", fontsize=5)
    for axis in panels[len(steps) + 1 :]:
        axis.set_visible(False)
    figure.tight_layout(pad=0.4)
    return figure


def _draw_item(axis: Axes, item: Mapping[str, Any], colour: str = "black") -> None:
    axis.set_xticks([])
    axis.set_yticks([])
    if item["image"]:
        with Image.open(item["image"]) as image:
            axis.imshow(image.convert("RGB"))
    else:
        axis.imshow(np.full((64, 64, 3), 255, dtype=np.uint8))
        axis.text(32, 32, fill(item["text"], 20), ha="center", va="center", fontsize=6)
    for side in axis.spines.values():
        side.set(edgecolor=colour, linewidth=2, visible=True)


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
    return pd.DataFrame(rows)


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
    return pd.DataFrame(rows)


def false_negatives_figure(metrics: Mapping[str, Any]) -> Figure:
    """False negatives against hardness: a miner is good where negatives are similar and still wrong."""
    use_style()
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.8), width_ratios=(1.5, 1))
    names = list(metrics["miners"])
    colours = dict(zip(names, sns.color_palette("colorblind", len(names)), strict=True))
    groups = list(metrics["groups"])
    width = 0.85 / len(names)
    for i, name in enumerate(names):
        values = np.array(
            [[metrics["miners"][name]["groups"][g]["trained"][k] for g in groups] for k in ("value", "low", "high")]
        )
        places = np.arange(len(groups)) + (i - (len(names) - 1) / 2) * width
        axes[0].bar(places, values[0], width, yerr=np.abs(values[1:] - values[0]), color=colours[name], label=name,
                    edgecolor="black", linewidth=0.4, error_kw={"elinewidth": 0.7})  # fmt: skip
        one = metrics["miners"][name]
        axes[1].scatter(one["hardness"], one["groups"]["all"]["trained"]["value"], color=colours[name], s=30)
    axes[0].set_xticks(np.arange(len(groups)), groups, fontsize=7)
    axes[0].set_ylabel("false negatives (%)")
    axes[0].grid(visible=False, axis="x")
    axes[0].legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, 1.27))
    axes[1].set_xlabel("mean similarity of negatives")
    axes[1].set_ylabel("false negatives, all (%)")
    axes[1].margins(x=0.25, y=0.15)
    figure.tight_layout(pad=0.5)
    return figure


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


def mining_claims(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """That SaHa has fewer false negatives than miners that rank in target space, by group of subsets."""
    rows = []
    for rival, groups in metrics["differences"].items():
        for group, one in groups.items() if rival != "random" else ():
            statement = f"SaHa has fewer false negatives than {rival}: {group}"
            row = difference_claim(statement, "Gen2Embed, section 4", "fewer", one)
            if one["low"] == one["high"] == 0:
                row["verdict"] = "no difference: neither has any"
            rows.append(row)
    return pd.DataFrame(rows)


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
    for baseline, others in metrics["differences"].items():
        for name, one in others.items():
            rows.append(
                our_row(f"{name} - {baseline}", one, signed=True) | {"seeds": seed_spread(one["overall_by_seed"])}
            )
    return pd.DataFrame(rows)


def seed_spread(values: Sequence[float]) -> str:
    """Number of seeds, and the standard deviation of the overall score over them."""
    return "1" if len(values) == 1 else f"{len(values)}, sd {np.std(values, ddof=1):.1f}"


def training_datasets_table(metrics: Mapping[str, Any]) -> pd.DataFrame:
    """hit@1 of every arm on every dataset."""
    rows = []
    for name, info in metrics["datasets"].items():
        row = {"dataset": name, "meta-task": info["meta_task"], "IND/OOD": info["distribution"], "n": str(info["n"])}
        rows.append(row | {arm: interval(one["datasets"][name]) for arm, one in metrics["arms"].items()})
    return pd.DataFrame(rows)


CURVES = {
    "loss": "loss (nats)",
    "gradient_norm": "gradient norm",
    "hardest_negative_similarity": "similarity, hardest negative",
    "positive_similarity": "similarity, positive",
}


def curves_figure(metrics: Mapping[str, Any]) -> Figure:
    """Loss, gradient norm and similarities over the steps; means of seeds, shaded between their extremes."""
    use_style()
    figure, axes = plt.subplots(1, len(CURVES), figsize=(TWO_COLUMNS, 2.5))
    trained = {name: arm for name, arm in metrics["arms"].items() if arm["log"]}
    for axis, (field, label) in zip(axes, CURVES.items(), strict=True):
        for (name, arm), colour in zip(trained.items(), sns.color_palette("colorblind", len(trained)), strict=True):
            steps = [record["step"] for record in arm["log"][0]]
            values = np.array([[record[field] for record in log] for log in arm["log"]])
            axis.plot(steps, values.mean(0), color=colour, linewidth=1, label=name)
            axis.fill_between(steps, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.set_xlabel("step")
        axis.set_title(label, fontsize=7)
    for axis in axes[:2]:
        axis.set_yscale("log")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    figure.tight_layout(pad=0.4)
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
    """Overall, IND and OOD of every arm as points with intervals."""
    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(TWO_COLUMNS, 0.3 * len(metrics["arms"]) + 0.9), sharey=True)
    names = list(metrics["arms"])[::-1]
    for axis, group in zip(axes, ("overall", "IND", "OOD"), strict=True):
        for place, name in enumerate(names):
            one = metrics["arms"][name]["groups"].get(group)
            if one:
                axis.plot((one["low"], one["high"]), (place, place), color="black", linewidth=1)
                axis.plot(one["value"], place, "o", color="black", markersize=4)
        axis.set_title(f"{group}: hit@1 (%)")
        axis.set_yticks(range(len(names)), names)
        axis.set_ylim(-0.5, len(names) - 0.5)
    figure.tight_layout(pad=0.5)
    return figure


def by_seed(difference: Mapping[str, Any]) -> str:
    """The overall difference with each seed."""
    return ", ".join(f"{value:+.1f}" for value in difference["overall_by_seed"])


def seeded_verdict(difference: Mapping[str, Any]) -> str:
    """Whether a difference is above zero over queries and with every seed; one seed alone is said to be one."""
    values = difference["overall_by_seed"]
    is_above = difference["overall"]["low"] > 0 and min(values) > 0
    return (REPRODUCED if is_above else NOT_REPRODUCED) + (" (one seed)" if len(values) == 1 else "")


PROMPT_GAIN = 4.8  # points the prompt adds to in-batch training, as Gen2Embed's first version states


def training_claims(metrics: Mapping[str, Any], profile: str) -> pd.DataFrame:
    """The claims about training, each a paired difference.

    Reproduced if its whole interval over queries is above zero, and so is the difference with every single seed.
    """
    published = reference("gen2embed_mmeb").set_index(["setting", "method", "params"])["overall"]
    saha, plain = published["fine_tuned", "SaHa", "2.2B"], published["fine_tuned", "VLM2Vec", "2.2B"]
    zero_shot = published["zero_shot", "hierarchical prompt", "2.2B"]
    no_prompt, prompt = "in-batch, no prompt (VLM2Vec)", "in-batch, hierarchical prompt"
    claims = []
    for statement, source, paper, better, worse in (
        ("SaHa beats in-batch training without prompt", "Gen2Embed, MMEB", saha - plain, "SaHa", no_prompt),
        ("SaHa beats in-batch training with the same prompt", "Gen2Embed, section 4", None, "SaHa", prompt),
        ("SaHa beats top-k hard negatives", "Gen2Embed, section 4", None, "SaHa", "top-k hard negatives"),
        ("fine-tuning with SaHa beats no training", "Gen2Embed, MMEB", saha - zero_shot, "SaHa", "zero-shot"),
        ("the prompt lifts in-batch training", "Gen2Embed, first version", PROMPT_GAIN, prompt, no_prompt),
    ):
        one = metrics["differences"].get(worse, {}).get(better)
        shown = "positive" if paper is None else f"{paper:+.1f} points"
        if one:
            shown = "–" if profile == "smoke" else shown
            claim = difference_claim(f"{statement}, overall", source, shown, one["overall"])
            claims.append(claim | {"by seed": by_seed(one), "verdict": seeded_verdict(one)})
    return pd.DataFrame(claims)


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


def ablation_figure(metrics: Mapping[str, Any], question: str) -> Figure:
    """One question: overall, IND and OOD by setting; the base arm is marked."""
    use_style()
    names = metrics["questions"][question]
    figure, axis = plt.subplots(figsize=(max(3.0, 0.75 * len(names) + 1.5), 2.4))
    for group, colour, shift in zip(
        ("overall", "IND", "OOD"), sns.color_palette("colorblind"), (0, -0.12, 0.12), strict=False
    ):
        found = [(i, metrics["arms"][n]["groups"].get(group)) for i, n in enumerate(names)]
        for place, one in found:
            if one:
                axis.plot([place + shift] * 2, (one["low"], one["high"]), color=colour, linewidth=1)
        axis.plot([i + shift for i, one in found if one], [one["value"] for _, one in found if one], "o-",
                  color=colour, markersize=3, linewidth=0.6, label=group)  # fmt: skip
    labels = [f"{n} (base)" if n in metrics["base_names"] else n for n in names]
    axis.set_xticks(range(len(names)), [fill(label, 14) for label in labels], fontsize=6)
    axis.set_ylabel("hit@1 (%)")
    axis.set_title(QUESTIONS.get(question, question))
    axis.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.margins(x=0.15)
    figure.tight_layout(pad=0.4)
    return figure


def save_ablation_figures(metrics: Mapping[str, Any], folder: Path) -> None:
    """Write one figure a question."""
    for question in metrics["questions"]:
        save_figure(ablation_figure(metrics, question), folder, f"ablation_{question}")


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
