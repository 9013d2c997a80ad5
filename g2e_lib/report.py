"""Tables and figures, from stored results only: no model, no torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from g2e_lib.config import PACKAGE
from g2e_lib.store import atomic_path, write_text

pd.set_option("display.max_colwidth", None)  # tables are there to be read, so never cut a cell

REFERENCE = PACKAGE / "reference"
META_TASKS = ("classification", "vqa", "retrieval", "grounding")
GROUPS = (*META_TASKS, "IND", "OOD", "overall")
TITLES = {"classification": "Classif.", "vqa": "VQA", "retrieval": "Retrieval", "grounding": "Grounding"}
TITLES |= {"IND": "IND", "OOD": "OOD", "overall": "Overall"}
ONE_COLUMN, TWO_COLUMNS = 3.5, 7.2  # inches, of a two-column paper


def use_style() -> None:
    """One look for all figures: colour-blind safe, readable small."""
    sns.set_theme(
        context="paper",
        style="whitegrid",
        palette="colorblind",
        rc={
            "figure.dpi": 110,
            "savefig.dpi": 200,
            "savefig.bbox": "tight",
            "svg.hashsalt": "g2e_lib",  # otherwise every SVG gets new random ids
            "svg.fonttype": "none",
            "axes.titlesize": 9,
            "axes.labelsize": 9,
            "legend.fontsize": 8,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
        },
    )


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` and `<name>.svg`, without dates, so that the same figure gives the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        with atomic_path(folder / f"{name}{suffix}") as partial:
            figure.savefig(partial, format=suffix[1:], metadata=metadata)


def save_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write `<name>.csv` and `<name>.md`."""
    write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / f"{name}.md", table.to_markdown(index=False, disable_numparse=True) + "\n")


def interval(estimate: dict[str, Any], signed: bool = False) -> str:
    """An estimate as text.

    >>> interval({"value": 43.21, "low": 40.0, "high": 46.55, "n": 300})
    '43.2 [40.0, 46.5]'
    >>> interval({"value": 2.04, "low": -1.0, "high": 5.0, "n": 300}, signed=True)
    '+2.0 [-1.0, +5.0]'
    """
    form = "+.1f" if signed else ".1f"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def reference(name: str) -> pd.DataFrame:
    """A table of published numbers: "gen2embed_mmeb", "unime_mmeb", "unime_retrieval" or "mmeb_datasets"."""
    return pd.read_csv(REFERENCE / f"{name}.csv")


def environment_table(environment: dict[str, Any]) -> pd.DataFrame:
    """Versions and machine, as one block to paste into a bug report."""
    facts = {key: value for key, value in environment.items() if key != "libraries"}
    rows = {
        **facts,
        **{f"{name} (library)": version or "not installed" for name, version in environment["libraries"].items()},
    }
    return pd.DataFrame({"what": list(rows), "value": [str(value) for value in rows.values()]})


def benchmark_table(facts: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """The datasets of MMEB-mini with their sizes and the reason for IND or OOD."""
    columns = {"meta_task": "meta-task", "distribution": "IND/OOD", "queries": "queries", "train_pairs": "train pairs"}
    columns |= {"fewest_candidates": "candidates (fewest)", "why": "why"}
    return pd.DataFrame([{"dataset": n, **{c: f[k] for k, c in columns.items()}} for n, f in facts.items()])


def model_table(facts: dict[str, Any]) -> pd.DataFrame:
    """What is known about a base model's training, one fact a row."""
    rows = {k: v for k, v in facts.items() if not isinstance(v, dict)}
    rows |= {f"recipe: {k}": v for k, v in facts.get("recipe", {}).items()}
    return pd.DataFrame({"fact": list(rows), "value": [str(value) for value in rows.values()]})


def competence_table(records: Sequence[dict[str, Any]], gates: dict[str, Sequence[float]]) -> pd.DataFrame:
    """Share of exactly right answers by kind of question, from images and from texts, with the share required.

    Args:
        records: kind, source ("image" or "text"), and an estimate in percent.
        gates: kind -> required share from images and from texts, 0 to 1.
    """
    by_kind: dict[str, dict[str, Any]] = {}
    for record in records:
        by_kind.setdefault(record["kind"], {})[record["source"]] = record
    rows = []
    for kind, one in sorted(by_kind.items(), key=lambda pair: (pair[0] not in gates, pair[0])):
        required = [f"{100 * share:.0f}" for share in gates.get(kind, ())] or ["–", "–"]
        rows.append(
            {
                "question": kind,
                "from image (%)": interval(one["image"]),
                "required": required[0],
                "from text (%)": interval(one["text"]),
                "required ": required[1],
                "n": f"{one['image']['n']} + {one['text']['n']}",
            }
        )
    return pd.DataFrame(rows)


def base_models_table(models: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Every base model that was trained, with what it can do; missing numbers were not measured."""
    return pd.DataFrame(models).fillna("–")


def item_image(item: Any, side: int = 192) -> Image.Image:  # noqa: ANN401 (anything with an image path)
    """An item's picture, enlarged to look at."""
    with Image.open(item.image) as image:
        return image.convert("RGB").resize((side, side), Image.Resampling.NEAREST)


def replies_table(records: Sequence[dict[str, str]]) -> pd.DataFrame:
    """What was asked and what the model answered."""
    return pd.DataFrame(records)


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


def learning_curve_figure(records: Sequence[dict[str, Any]]) -> Figure:
    """Loss of both phases of pre-training over their steps."""
    use_style()
    phases = {"vision": "vision tower: loss (nats a cell)", "language": "language: loss (nats a token)"}
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.2))
    for axis, (phase, label) in zip(axes, phases.items(), strict=True):
        points = [(r["step"], r["loss"]) for r in records if r.get("phase") == phase]
        axis.plot(*np.array(points).T, color="black", linewidth=1)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("step")
        axis.set_title(label)
    figure.tight_layout()
    return figure


def paper_row(label: str, row: pd.Series) -> dict[str, str]:
    """A row of published scores by group; what was not published is a dash."""
    scores = {group: row.get(group.lower()) for group in GROUPS}
    cells = {TITLES[group]: f"{score:.1f}" if pd.notna(score) else "–" for group, score in scores.items()}
    return {"": label, **cells, "n": "–"}


def our_row(label: str, groups: dict[str, dict], signed: bool = False) -> dict[str, str]:
    """A row of our estimates by group."""
    cells = {TITLES[g]: interval(groups[g], signed) if g in groups else "–" for g in GROUPS}
    return {"": label, **cells, "n": str(groups["overall"]["n"])}


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
    if "hierarchical" in differences:
        rows.append(our_row("difference, paired", differences["hierarchical"], signed=True))
    return pd.DataFrame(rows)


def prompt_table(metrics: dict[str, Any]) -> pd.DataFrame:
    """The prompt ablation: hit@1 of every prompt by meta-task and distribution."""
    return pd.DataFrame([our_row(name, one["groups"]) for name, one in metrics["prompts"].items()])


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
    return pd.DataFrame(rows)


def zero_shot_figure(metrics: dict[str, Any]) -> Figure:
    """Bars of hit@1 by prompt and group, with intervals."""
    use_style()
    names = list(metrics["prompts"])
    shown = [group for group in GROUPS if group in metrics["prompts"][names[0]]["groups"]]
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS, 2.6))
    width = 0.85 / len(names)
    for i, (name, colour) in enumerate(zip(names, sns.color_palette("colorblind", len(names)), strict=True)):
        groups = metrics["prompts"][name]["groups"]
        values = np.array([[groups[g][k] for g in shown] for k in ("value", "low", "high")])
        places = np.arange(len(shown)) + (i - (len(names) - 1) / 2) * width
        error = np.abs(values[1:] - values[0])
        axis.bar(places, values[0], width, yerr=error, label=name, color=colour, edgecolor="black", linewidth=0.4,
                 hatch=("", "//", "..", "", "xx", "\\\\", "++")[i % 7], error_kw={"elinewidth": 0.7})  # fmt: skip
    axis.set_xticks(np.arange(len(shown)), [TITLES[g] for g in shown])
    axis.set_ylabel("hit@1 (%)")
    axis.grid(visible=False, axis="x")
    axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.3), frameon=False)
    return figure


def dataset_figure(metrics: dict[str, Any]) -> Figure:
    """A heat map of hit@1 by dataset and prompt, out-of-distribution datasets marked."""
    use_style()
    names, datasets = list(metrics["prompts"]), metrics["datasets"]
    values = [[metrics["prompts"][p]["datasets"][d]["value"] for p in names] for d in datasets]
    labels = [f"{d} ({info['distribution']})" for d, info in datasets.items()]
    figure, axis = plt.subplots(figsize=(TWO_COLUMNS * 0.8, 0.24 * len(datasets) + 1.0))
    sns.heatmap(
        pd.DataFrame(values, index=labels, columns=names),
        annot=True, fmt=".0f", cmap="cividis", vmin=0, vmax=100, ax=axis, cbar_kws={"label": "hit@1 (%)"},
    )  # fmt: skip
    axis.set_xticks(axis.get_xticks(), names, rotation=30, ha="right", rotation_mode="anchor")
    return figure


def modality_gap_figure(gap: dict[str, Any]) -> Figure:
    """Paired images and texts in two principal components, one panel a prompt, pairs joined; gap: centroid distance."""
    use_style()
    panels = gap["panels"]
    figure, axes = plt.subplots(1, len(panels), figsize=(TWO_COLUMNS, 2.7), squeeze=False)
    colours = sns.color_palette("colorblind")
    for axis, (name, panel) in zip(axes[0], panels.items(), strict=True):
        image, text = np.array(panel["image"]), np.array(panel["text"])
        axis.plot(*np.stack((image, text), axis=1).T.reshape(2, 2, -1), color="0.8", linewidth=0.4, zorder=1)
        axis.scatter(*image.T, s=9, color=colours[0], marker="o", label="image", zorder=2)
        axis.scatter(*text.T, s=9, color=colours[1], marker="^", label="text", zorder=2)
        axis.set_title(f"{name}\ngap {panel['gap']['centroid_distance']['value']:.2f}")
        axis.set_xticks([])
        axis.set_yticks([])
    axes[0][0].legend(loc="best", frameon=True)
    return figure


def next_words_table(words: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """The likeliest next words after an image and after its caption, by prompt."""
    shown = [
        {
            "prompt": one["prompt"],
            "image": ", ".join(f"{w} {p:.2f}" for w, p in one["image"]),
            "caption": ", ".join(f"{w} {p:.2f}" for w, p in one["text"]),
            "shared probability (%)": interval(one["overlap"]),
            "n": one["overlap"]["n"],
        }
        for one in words
    ]
    return pd.DataFrame(shown)


def modality_gap_table(gap: dict[str, Any]) -> pd.DataFrame:
    """The modality gap in numbers, by prompt."""
    rows = []
    for name, panel in gap["panels"].items():
        cells = {
            title: "{value:.3f} [{low:.3f}, {high:.3f}]".format(**panel["gap"][key])
            for key, title in (("centroid_distance", "centroid distance"), ("paired_cosine", "cosine of pairs"))
        }
        rows.append({"prompt": name, **cells, "n": panel["gap"]["centroid_distance"]["n"]})
    return pd.DataFrame(rows)


REPRODUCED, NOT_REPRODUCED = "reproduced", "not reproduced at this scale"


def difference_claim(statement: str, source: str, paper: str, estimate: dict[str, Any]) -> dict[str, str]:
    """A claim that a difference is positive: reproduced if the whole interval is."""
    verdict = REPRODUCED if estimate["low"] > 0 else NOT_REPRODUCED
    ours = f"{interval(estimate, signed=True)} points"
    return {"claim": statement, "source": source, "paper": paper, "ours": ours, "n": estimate["n"], "verdict": verdict}


def flipped(estimate: dict[str, Any]) -> dict[str, Any]:
    """The same difference seen from the other side.

    >>> flipped({"value": 1.0, "low": -1.0, "high": 3.0, "n": 9})
    {'value': -1.0, 'low': -3.0, 'high': 1.0, 'n': 9}
    """
    return {"value": -estimate["value"], "low": -estimate["high"], "high": -estimate["low"], "n": estimate["n"]}


def zero_shot_claims(metrics: dict[str, Any], gap: dict[str, Any], profile: str) -> pd.DataFrame:
    """The paper's claims about prompting without training, each with its number, ours, and a computed verdict.

    A difference is reproduced if its whole 95 % interval is above zero, the gap if the intervals do not overlap.

    Args:
        metrics: metrics/zero_shot.json.
        gap: metrics/modality_gap.json.
        profile: its name; the paper's numbers are left out for `smoke`.

    Returns:
        One row a claim; claims about prompts or groups that were not measured are left out.
    """
    paper = reference("gen2embed_mmeb").query("setting == 'zero_shot'").set_index("method")
    gain = paper.loc["hierarchical prompt", list(META_TASKS) + ["overall"]].astype(float)
    gain -= paper.loc["baseline prompt", list(META_TASKS) + ["overall"]].astype(float)
    over_none = metrics["differences"].get("none", {}).get("hierarchical", {})
    over_hierarchical = metrics["differences"].get("hierarchical", {})
    claims = []
    for group in ("overall", *META_TASKS):
        if group in over_none:
            statement = f"the hierarchical prompt beats no prompt, {group}"
            shown = "–" if profile == "smoke" else f"{gain[group]:+.1f} points"
            claims.append(difference_claim(statement, "Gen2Embed, zero-shot MMEB", shown, over_none[group]))
    for level, other in (("system", "user"), ("user", "system")):
        if other in over_hierarchical:
            one = flipped(over_hierarchical[other]["overall"])
            statement = f"the {level} level adds to the {other} level, overall"
            claims.append(difference_claim(statement, "Gen2Embed, section 3", "positive", one))
    if not {"none", "hierarchical"} <= set(gap["panels"]):
        return pd.DataFrame(claims)
    before, after = (gap["panels"][name]["gap"]["centroid_distance"] for name in ("none", "hierarchical"))
    claims.append(
        {
            "claim": "the hierarchical prompt narrows the modality gap (centroid distance)",
            "source": "Gen2Embed, section 3",
            "paper": "narrower",
            "ours": f"{before['value']:.2f} to {after['value']:.2f}",
            "n": after["n"],
            "verdict": REPRODUCED if after["high"] < before["low"] else NOT_REPRODUCED,
        }
    )
    return pd.DataFrame(claims)
