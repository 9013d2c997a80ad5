"""Tables of the scores of methods, from stored results only: no model, no torch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from g2e_lib.report.registry import table
from g2e_lib.report.text import (
    NOT_REPRODUCED,
    REPRODUCED,
    TITLES,
    difference_rows,
    display,
    interval,
    mark_best,
    paper_rows,
    row,
    seeds,
)

Metrics = Mapping[str, Any]


# --- scores of methods -----------------------------------------------------------------------------------------------


def score_table(
    papers: list[dict], ours: list[dict], differences: Sequence[dict] = (), columns: Sequence[str] = ()
) -> pd.DataFrame:
    """Rows of the papers, ours, of which the best are bold, and differences."""
    places = range(len(papers), len(papers) + len(ours))
    return mark_best(pd.DataFrame([*papers, *ours, *differences]), places, columns or list(TITLES.values()))


@table("table_1_zero_shot", needs=("zero_shot",))
def zero_shot_table(metrics: Metrics, profile: str) -> pd.DataFrame:
    """Table 1: hit@1 without training, baseline prompt against hierarchical, beside the paper's rows."""
    papers = paper_rows(profile, "gen2embed_mmeb", "setting == 'zero_shot'")
    papers = [{**paper, "": paper[""].replace(" 2.2B", "")} for paper in papers]
    labels = {"none": "no prompt", "hierarchical": "hierarchical prompt"}
    prompts, differences = metrics["prompts"], metrics["differences"].get("none", {})
    ours = [row(f"{profile}: {labels[name]}", prompts[name]["groups"]) for name in labels if name in prompts]
    paired = "hierarchical" in differences
    return score_table(
        papers, ours, [row("difference, paired", differences["hierarchical"], signed=True)] if paired else []
    )


@table("prompt_ablation", needs=("zero_shot",))
def prompt_table(metrics: Metrics) -> pd.DataFrame:
    """The prompt ablation: hit@1 of every prompt by meta-task and distribution."""
    return score_table([], [row(name, found["groups"]) for name, found in metrics["prompts"].items()])


@table("prompt_differences", needs=("zero_shot",))
def difference_table(metrics: Metrics) -> pd.DataFrame:
    """Prompts against no prompt and against the hierarchical one, in points, paired on the same queries."""
    return pd.DataFrame(difference_rows(metrics["differences"]))


@table("zero_shot_datasets", needs=("zero_shot",))
def dataset_table(metrics: Metrics) -> pd.DataFrame:
    """hit@1 of every prompt on every dataset, with the chance level; * marks what is no better than chance."""
    return _by_dataset(metrics["datasets"], metrics["prompts"], with_chance=True)


def _by_dataset(datasets: Metrics, methods: Metrics, with_chance: bool = False) -> pd.DataFrame:
    """Scores of methods, the columns, on every dataset."""
    rows = []
    for name, info in datasets.items():
        cells = {"dataset": name, "meta-task": info["meta_task"], "IND/OOD": info["distribution"], "n": str(info["n"])}
        cells |= {"chance": f"{info['chance']:.1f}"} if with_chance else {}
        for label, method in methods.items():
            estimate = method["datasets"][name]
            cells[label] = interval(estimate) + "*" * (with_chance and estimate["low"] <= info["chance"])
        rows.append(cells)
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(methods), by_row=True)


FINE_TUNED = "setting == 'fine_tuned'"
STAGES = "method in ('E5-V', 'VLM2Vec', 'UniME stage 1', 'UniME stage 1+2')"


@table("unime_mmeb", needs=("unime",), papers={"unime_mmeb": STAGES}, label="UniME's stages")
@table("table_2_training", needs=("training",), papers={"gen2embed_mmeb": FINE_TUNED, "unime_mmeb": FINE_TUNED})
def training_table(metrics: Metrics, profile: str, papers: Mapping[str, str]) -> pd.DataFrame:
    """Table 2: hit@1 after fine-tuning, beside the papers' rows; sd is the spread of the overall score over seeds."""
    published = [paper | {"seeds": "–"} for name, query in papers.items() for paper in paper_rows(profile, name, query)]
    ours = [row(f"{profile}: {display(key)}", m["groups"]) | seeds(m) for key, m in metrics["methods"].items()]
    return score_table(published, ours, difference_rows(metrics["differences"]))


@table("training_datasets", needs=("training",))
def training_datasets_table(metrics: Metrics) -> pd.DataFrame:
    """hit@1 of every method on every dataset."""
    return _by_dataset(metrics["datasets"], {display(key): method for key, method in metrics["methods"].items()})


@table("training_cost", needs=("training",))
def cost_table(metrics: Metrics) -> pd.DataFrame:
    """What training cost, by method: time, speed and memory, means over seeds."""
    rows = []
    for key, method in metrics["methods"].items():
        if method["log"]:
            last = [log[-1] for log in method["log"]]
            speeds = [np.median([record["pairs_per_second"] for record in log]) for log in method["log"]]
            peak = max(record["peak_memory_mib"] for record in last)
            cells = {"trained with": display(key), "steps": str(last[0]["step"])}
            cells |= {"seconds": f"{np.mean(method['seconds']):.0f}"}
            cells |= {"pairs a second (median)": f"{np.mean(speeds):.0f}", "peak memory (MiB)": f"{peak:.0f}"}
            cells |= {"last loss (nats)": f"{np.mean([record['loss'] for record in last]):.3f}"}
            rows.append(cells | {"seeds": str(len(last))})
    return pd.DataFrame(rows)


# --- ablations -------------------------------------------------------------------------------------------------------


@table("unime_ablations", needs=("unime_ablations",))
@table("ablations", needs=("ablations",))
def ablation_table(metrics: Metrics) -> pd.DataFrame:
    """Every point of every question: scores, and the difference to the base on the same queries."""
    rows = []
    for question, keys in metrics["questions"].items():
        for key in keys:
            method, difference = metrics["methods"][key], metrics["differences"][metrics["base"]].get(key)
            is_base = key in metrics["base_names"]
            against = "base" if is_base else interval(difference["overall"], signed=True)
            scores = row(display(key), method["groups"])
            rows.append({"question": question, **scores, "against base": against, **seeds(method)})
    return pd.DataFrame(rows).rename(columns={"": "setting"})


def by_seed(values: Sequence[float]) -> str:
    """The overall difference with each seed."""
    return ", ".join(f"{value:+.1f}" for value in values)


def seeded_verdict(low: float, values: Sequence[float]) -> str:
    """Whether a difference is above zero over queries and with every seed; one seed alone is said to be one."""
    is_above = low > 0 and min(values) > 0
    return (REPRODUCED if is_above else NOT_REPRODUCED) + (" (one seed)" if len(values) == 1 else "")


@table("unime_ablation_verdicts", needs=("unime_ablations",))
@table("ablation_verdicts", needs=("ablations",))
def ablation_verdicts(metrics: Metrics) -> pd.DataFrame:
    """For every change of one thing whether the overall score differs.

    It does if the interval over queries lies on one side of zero, and so does the difference with every seed. With one
    seed this is about one pair of weights, and among many changes one in twenty differs by chance.
    """
    rows = []
    for key, groups in metrics["differences"][metrics["base"]].items():
        if key in metrics["base_names"]:
            continue
        overall, values = groups["overall"], groups["overall_by_seed"]
        is_higher, is_lower = overall["low"] > 0 and min(values) > 0, overall["high"] < 0 and max(values) < 0
        verdict = "higher" if is_higher else "lower" if is_lower else "no difference shown"
        verdict += " (one seed)" if len(values) == 1 else ""
        ours = f"{interval(overall, signed=True)} points"
        facts = {"change": display(key), "overall, against base": ours, "by seed": by_seed(values)}
        rows.append({**facts, "n": str(overall["n"]), "verdict": verdict})
    return pd.DataFrame(rows)


# --- UniME and composition -------------------------------------------------------------------------------------------

TASKS = {"short_i2t": "short, i→t", "short_t2i": "short, t→i", "long_i2t": "long, i→t", "long_t2i": "long, t→i"}
# The published sets that stand beside ours: columns of the reference in the order of TASKS.
PUBLISHED = {
    "Flickr30K / ShareGPT4V": ("flickr30k_i2t", "flickr30k_t2i", "sharegpt4v_i2t", "sharegpt4v_t2i"),
    "COCO / Urban1K": ("coco_i2t", "coco_t2i", "urban1k_i2t", "urban1k_t2i"),
}


@table("unime_retrieval", needs=("unime",))
def retrieval_table(metrics: Metrics, profile: str) -> pd.DataFrame:
    """UniME's retrieval table: recall at 1 in percent with short and long captions, image to text and text to image."""
    both = []
    for sets, columns in PUBLISHED.items():
        titled = dict(zip(columns, TASKS.values(), strict=True))
        found = paper_rows(profile, "unime_retrieval", columns=titled)
        both.append([{"": paper.pop(""), "captions": sets, **paper} for paper in found])
    papers = [paper for pair in zip(*both, strict=True) for paper in pair]
    ours = []
    for key, tasks in metrics["retrieval"].items():
        cells = row(f"{profile}: {display(key)}", tasks, TASKS)
        n = " / ".join(str(tasks[task]["n"]) for task in ("short_i2t", "long_i2t"))
        ours.append({"": cells.pop(""), "captions": metrics["retrieval_name"], **cells, "n": n})
    return score_table(papers, ours, columns=list(TASKS.values()))


@table("unime_teacher", needs=("unime",))
def teacher_table(metrics: Metrics) -> pd.DataFrame:
    """The text teacher: what it is, and how well it finds a paraphrase among all."""
    facts = {key: str(value) for key, value in metrics["teacher"].items() if key != "recall"}
    if recall := metrics["teacher"].get("recall"):
        facts["finds the paraphrase, recall at 1 (%)"] = f"{interval(recall)}, n = {recall['n']}"
    return pd.DataFrame({"teacher": list(facts), "value": list(facts.values())})


@table("unime_filter", needs=("unime",))
def filter_table(metrics: Metrics) -> pd.DataFrame:
    """What the filter does in truth: right answers among the chosen negatives, and right answers that it drops."""
    rows = []
    for moment, found in metrics["filter"].items():
        for key, rate in found["rates"].items():
            titles = {"against no filter (points)": "differences", "right answers of the batch dropped (%)": "dropped"}
            cells = {"model": moment, "filter": display(key), "right answers among negatives (%)": interval(rate)}
            for title, part in titles.items():
                cells[title] = interval(found[part][key], part == "differences") if key in found[part] else "–"
            rows.append(cells | {"n (queries)": str(rate["n"])})
    return pd.DataFrame(rows)


NEGATIVES_CURVES = {
    "negative_similarity": "mean similarity of negatives",
    "loss": "loss (nats)",
    "gradient_norm": "gradient norm before clipping",
}


@table("unime_negatives", needs=("unime",))
def negatives_table(metrics: Metrics) -> pd.DataFrame:
    """Means over all steps by kind of negatives, and what hard ones have more; intervals over steps."""
    means, differences = metrics["negatives_means"], metrics["negatives_differences"]
    named = [(order, found, False) for order, found in means.items()]
    named += [(f"hard - {order}", found, True) for order, found in differences.items()]
    rows = []
    for name, found, signed in named:
        cells = {NEGATIVES_CURVES[field]: interval(estimate, signed, digits=3) for field, estimate in found.items()}
        rows.append({"negatives": name, **cells, "n": str(found["loss"]["n"])})
    return pd.DataFrame(rows)


CREPE_GROUPS = ("replace", "swap", "add", "mean")
CREPE_TITLES = {
    ("sugarcrepe", "image"): "SugarCrepe",
    ("sugarcrepe_pp", "image"): "SugarCrepe++, image to text",
    ("sugarcrepe_pp", "text"): "SugarCrepe++, text alone",
}


@table("sugarcrepe_pp_text", needs=("sugarcrepe",), of="sugarcrepe_pp", kind="text", label="SugarCrepe++, text alone")
@table("sugarcrepe_pp_image", needs=("sugarcrepe",), of="sugarcrepe_pp", kind="image", label="SugarCrepe++, images")
@table("sugarcrepe", needs=("sugarcrepe",), of="sugarcrepe", kind="image", label="SugarCrepe")
def crepe_table(metrics: Metrics, profile: str, of: str, kind: str) -> pd.DataFrame:
    """Share of rows that are right in percent, by subset and group; groups and mean weigh subsets alike."""
    methods = metrics["sets"][of][kind]
    subsets, groups = (list(next(iter(methods.values()))[part]) for part in ("subsets", "groups"))
    columns = {name: name for name in (*groups, *subsets)}
    papers = []
    if of == "sugarcrepe":
        published = {f"sugarcrepe_{name}": name for name in columns}
        papers = paper_rows(profile, "unime_retrieval", columns=published)
    ours = [row(f"{profile}: {display(key)}", m["groups"] | m["subsets"], columns) for key, m in methods.items()]
    return score_table(papers, ours, columns=list(columns))


@table("sugarcrepe_differences", needs=("sugarcrepe",))
def crepe_differences_table(metrics: Metrics) -> pd.DataFrame:
    """Methods against their baselines on the same rows, in points, by set and group."""
    rows, columns = [], {group: group for group in CREPE_GROUPS}
    for (name, kind), title in CREPE_TITLES.items():
        differences = metrics["differences"].get(name, {}).get(kind, {})
        rows += [{"set": title, **cells} for cells in difference_rows(differences, columns)]
    return pd.DataFrame(rows).rename(columns={"": "difference"})
