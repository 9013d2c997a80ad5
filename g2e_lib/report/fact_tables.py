"""Tables that explain: probes, miners, the world, the base model, speed; from stored results only."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from g2e_lib.report.registry import table
from g2e_lib.report.text import display, interval, mark_best

Metrics = Mapping[str, Any]


def prompt_tokens_table(lines: Sequence[Metrics]) -> pd.DataFrame:
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


@table("mmeb_mini", needs=("setup",))
def benchmark_table(setup: Metrics) -> pd.DataFrame:
    """The benchmark's datasets with their sizes and the reason for IND or OOD."""
    columns = {"meta_task": "meta-task", "distribution": "IND/OOD", "queries": "queries", "train_pairs": "train pairs"}
    columns |= {"fewest_candidates": "candidates (fewest)", "why": "why"}
    return pd.DataFrame([{"dataset": n, **{c: f[k] for k, c in columns.items()}} for n, f in setup["datasets"].items()])


@table("base_model", needs=("setup",))
def model_table(setup: Metrics) -> pd.DataFrame:
    """What is known about the base model's training, one fact a row."""
    facts = {key: value for key, value in setup["training"].items() if not isinstance(value, dict)}
    facts |= {f"recipe: {key}": value for key, value in setup["training"].get("recipe", {}).items()}
    return pd.DataFrame({"fact": list(facts), "value": [str(value) for value in facts.values()]})


@table("base_model_competence", needs=("setup",))
def competence_table(setup: Metrics) -> pd.DataFrame:
    """Share of exactly right answers by kind of question, from images and from texts, with the share required."""
    gates = setup["gates"]
    by_kind: dict[str, dict[str, Any]] = {}
    for record in setup["competence"]:
        by_kind.setdefault(record["kind"], {})[record["source"]] = record
    rows = []
    for kind, found in sorted(by_kind.items(), key=lambda pair: (pair[0] not in gates, pair[0])):
        required = [f"{100 * share:.0f}" for share in gates.get(kind, ())] or ["–", "–"]
        cells = {"from image (%)": interval(found["image"]), "required": required[0]}
        cells |= {"from text (%)": interval(found["text"]), "required ": required[1]}
        rows.append({"question": kind, **cells, "n": f"{found['image']['n']} + {found['text']['n']}"})
    return pd.DataFrame(rows)


@table("base_models", needs=("setup",))
def base_models_table(setup: Metrics) -> pd.DataFrame:
    """Every base model that was trained, with what it can do; missing numbers were not measured."""
    return pd.DataFrame(setup["base_models"]).fillna("–")


@table("replies", needs=("setup",))
def replies_table(setup: Metrics) -> pd.DataFrame:
    """What the base model was asked about a validation scene, and what it answered."""
    return pd.DataFrame(setup["replies"])


@table("speed", needs=("benchmarks",))
def speed_table(benchmarks: Metrics) -> pd.DataFrame:
    """Measured speed and memory of the embedder, the gradient cache and the miner; each with what it is compared to."""
    encode, cache, mine = (benchmarks[name] for name in ("embedding", "gradcache", "mining"))
    largest = str(max(map(int, cache["peak_memory_above_inputs_mib_by_pairs"]["plain"])))
    memory = {way: found[largest] for way, found in cache["peak_memory_above_inputs_mib_by_pairs"].items()}
    seconds, pairs = cache["seconds_median"], f"{cache['pairs']} pairs"
    rates = [f"{encode[f'{way}_items_per_second']:.0f}" for way in ("ours", "plain")]
    cached = f"{seconds['cached']:.2f}"
    rows = [("embedding", "items a second", f"{encode['items']} items", "a plain loop", *rates)]
    for way, name in (("plain", "one big batch"), ("sentence_transformers", "sentence-transformers' cache")):
        rows.append(("gradient cache", "seconds a batch", pairs, name, cached, f"{seconds[way]:.2f}"))
    peaks = [f"{memory[way]:.0f}" for way in ("cached", "plain")]
    rows.append(("gradient cache", "peak memory above inputs (MiB)", f"{largest} pairs", "one big batch", *peaks))
    for case, found in mine["cases"].items():
        slow = [f"{np.median(found[key]):.2f}" for key in ("row_at_a_time_seconds",) if key in found]
        ours = f"{np.median(found['seconds']):.2f}"
        rows.append(("SaHa", "seconds", case, "a row at a time", ours, *(slow or ["–"])))
    return pd.DataFrame(rows, columns=["what", "measure", "of", "compared with", "ours", "theirs"])


# --- why: gap, next words, attention ---------------------------------------------------------------------------------


@table("modality_gap", needs=("modality_gap",), may_use=("modality_gap_trained",))
def modality_gap_table(gap: Metrics, trained: Metrics | None = None) -> pd.DataFrame:
    """The modality gap in numbers: by prompt without training, and after training where that was measured."""
    rows = []
    for name, panel in (gap["panels"] | (trained["panels"] if trained else {})).items():
        found = panel["gap"]
        shown = {"centroid distance": found["centroid_distance"], "cosine of pairs": found["paired_cosine"]}
        cells = {title: interval(estimate, digits=3) for title, estimate in shown.items()}
        rows.append({"prompt": display(name), **cells, "n": found["centroid_distance"]["n"]})
    return pd.DataFrame(rows)


@table("unime_next_words", needs=("unime",), listed="next_words", of="model", label="before and after each stage")
@table("next_words", needs=("next_words",), listed="prompts", of="prompt")
def next_words_table(metrics: Metrics, listed: str, of: str) -> pd.DataFrame:
    """The likeliest next words after an image and after its caption."""
    rows = []
    for found in metrics[listed]:
        image, text = (", ".join(f"{w} {p:.2f}" for w, p in found[side]) for side in ("image", "text"))
        shared = {"shared probability (%)": interval(found["overlap"]), "n": found["overlap"]["n"]}
        rows.append({of: found[of], "image": image, "caption": text, **shared})
    return pd.DataFrame(rows)


PARTS = {"system": "system message", "image": "image", "user": "user's text", "assistant": "chat format"}


@table("attention", needs=("attention",))
def attention_table(attention: Metrics) -> pd.DataFrame:
    """Share of the pooled token's attention (%) by prompt, kind of item and layer."""
    rows = []
    for name, kinds in attention["prompts"].items():
        for kind, layers in kinds.items():
            for number, layer in enumerate(layers, 1):
                cells = {title: interval(layer[part]) for part, title in PARTS.items()}
                rows.append({"prompt": name, "item": kind, "layer": number, **cells, "n": layer["image"]["n"]})
    return pd.DataFrame(rows)


# --- mining ----------------------------------------------------------------------------------------------------------


@table("miners", needs=("mining",))
def miners_table(metrics: Metrics) -> pd.DataFrame:
    """Miners side by side: true false-negative rates, hardness, rows used, cost."""
    kinds = {"anchor": "false negatives of anchors (%)", "trained": "in the whole item (%)"}
    kinds |= {"masked": "identical targets masked (%)"}
    rows = []
    for name, found in metrics["miners"].items():
        everything = found["groups"]["all"]
        rates = {title: interval(everything[kind]) for kind, title in kinds.items()}
        judged = {"items judged": str(everything["trained"]["n"])}
        rows.append({"miner": name, **rates, **judged, **_cells(found, HARDNESS | SIZES | COST)})
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(kinds.values()), lowest=True)


HARDNESS = {"similarity of negatives": "{hardness:.3f}", "of positives": "{positive:.3f}"}
SIZES = {"clusters": "{clusters}", "pairs a cluster": "{mean_size:.1f}", "rows used (%)": "{used:.1f}"}
COST = {"encoder passes a pair": "{passes:.1f}", "seconds": "{seconds:.2f}"}


def _cells(found: Metrics, columns: Mapping[str, str]) -> dict[str, str]:
    """Texts by title, each a form filled with what was found."""
    known = {**found, "used": 100 * found["rows"] / found["rows_of"]} if "rows_of" in found else found
    return {title: form.format(**known) for title, form in columns.items()}


@table("false_negatives", needs=("mining",))
def false_negatives_table(metrics: Metrics, kind: str = "trained") -> pd.DataFrame:
    """The true false-negative rate in percent by subset and miner, over all pairs of a cluster.

    Intervals are over the clusters (items) that were judged, whose number is given in the order of the miners.
    """
    miners = metrics["miners"]
    rows = []
    for subset, found in next(iter(miners.values()))["subsets"].items():
        head = {"subset": subset, "pairs": str(found["rows_of"]), "targets": str(found["targets"])}
        rows.append(head | _rates(miners, "subsets", subset, kind))
    for group, shown in metrics["groups"].items():
        head = {"subset": f"mean of {len(shown)}: {group}", "pairs": "–", "targets": "–"}
        rows.append(head | _rates(miners, "groups", group, kind))
    return mark_best(pd.DataFrame(rows), range(len(rows)), list(miners), by_row=True, lowest=True)


def _rates(miners: Metrics, part: str, name: str, kind: str) -> dict[str, str]:
    rates = {miner: found[part][name][kind] for miner, found in miners.items()}
    judged = " / ".join(str(rate["n"]) for rate in rates.values())
    return {"items judged": judged} | {miner: interval(rate) for miner, rate in rates.items()}


@table("clusters", needs=("mining",))
def clusters_table(metrics: Metrics) -> pd.DataFrame:
    """SaHa's clusters by subset."""
    rows = []
    for name, found in metrics["miners"]["saha"]["subsets"].items():
        columns = {"pairs": "{rows_of}", "distinct targets": "{targets}", **SIZES, **HARDNESS}
        rows.append({"subset": name, **_cells(found, columns)})
    return pd.DataFrame(rows)


@table("mining_steps", needs=("mining_example",))
def steps_table(example: Metrics) -> pd.DataFrame:
    """What became of each target retrieved for one anchor, in order."""
    rows = []
    for rank, step in enumerate(example["steps"], 1):
        owner = {"owner": "{owner}", "its query": "{owner_text}", "similarity of queries": "{owner_cosine:.3f}"}
        owner = _cells(step, owner) if step["owner"] >= 0 else dict.fromkeys(owner, "–")
        head = {"rank": rank, "target row": step["target"], "similarity": f"{step['target_cosine']:.3f}"}
        truth = {"what becomes of it": step["fate"], "in truth a right answer": "yes" if step["is_right"] else "no"}
        rows.append(head | owner | truth)
    return pd.DataFrame(rows)


@table("similarities", needs=("similarities",))
def histograms_table(histograms: Metrics) -> pd.DataFrame:
    """How many similarities of each kind were looked at, and their means."""
    edges = np.array(histograms["edges"])
    middle = (edges[:-1] + edges[1:]) / 2
    rows = []
    for name, kinds in histograms["miners"].items():
        cells: dict[str, Any] = {"miner": name}
        for kind, counts in kinds.items():
            total = sum(counts)
            cells |= {f"{kind}: mean": f"{np.dot(middle, counts) / total:.2f}" if total else "–", f"{kind}: n": total}
        rows.append(cells)
    return pd.DataFrame(rows)
