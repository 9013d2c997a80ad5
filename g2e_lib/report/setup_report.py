"""Tables and figures of notebook 00: the world, the benchmark, the base model, and the measured speed."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from g2e_lib.project.pictures import Tile, draw_tile
from g2e_lib.report.style import COLOURS, TWO_COLUMNS, interval, look, use_style


def environment_table(environment: dict[str, Any]) -> pd.DataFrame:
    """Versions and machine, as one block to paste into a bug report."""
    facts = {key: value for key, value in environment.items() if key != "libraries"}
    rows = {
        **facts,
        **{f"{name} (library)": version or "not installed" for name, version in environment["libraries"].items()},
    }
    return pd.DataFrame({"what": list(rows), "value": [str(value) for value in rows.values()]})


def benchmark_table(setup: Mapping[str, Any]) -> pd.DataFrame:
    """The benchmark's datasets with their sizes and the reason for IND or OOD."""
    columns = {"meta_task": "meta-task", "distribution": "IND/OOD", "queries": "queries", "train_pairs": "train pairs"}
    columns |= {"fewest_candidates": "candidates (fewest)", "why": "why"}
    return pd.DataFrame([{"dataset": n, **{c: f[k] for k, c in columns.items()}} for n, f in setup["datasets"].items()])


def model_table(setup: Mapping[str, Any]) -> pd.DataFrame:
    """What is known about the base model's training, one fact a row."""
    facts = setup["training"]
    rows = {k: v for k, v in facts.items() if not isinstance(v, dict)}
    rows |= {f"recipe: {k}": v for k, v in facts.get("recipe", {}).items()}
    return pd.DataFrame({"fact": list(rows), "value": [str(value) for value in rows.values()]})


def competence_table(setup: Mapping[str, Any]) -> pd.DataFrame:
    """Share of exactly right answers by kind of question, from images and from texts, with the share required."""
    gates = setup["gates"]
    by_kind: dict[str, dict[str, Any]] = {}
    for record in setup["competence"]:
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


def base_models_table(setup: Mapping[str, Any]) -> pd.DataFrame:
    """Every base model that was trained, with what it can do; missing numbers were not measured."""
    return pd.DataFrame(setup["base_models"]).fillna("–")


def replies_table(setup: Mapping[str, Any]) -> pd.DataFrame:
    """What the base model was asked about a validation scene, and what it answered."""
    return pd.DataFrame(setup["replies"])


def learning_curve_figure(setup: Mapping[str, Any]) -> Figure | None:
    """Loss of both phases of the base model's pre-training over their steps."""
    if not setup["learning"]:
        return None
    use_style()
    phases = {"vision": "vision tower: loss (nats a cell)", "language": "language: loss (nats a token)"}
    figure, axes = plt.subplots(1, 2, figsize=(TWO_COLUMNS, 2.2))
    for axis, (phase, label) in zip(axes, phases.items(), strict=True):
        curve = [(r["step"], r["loss"]) for r in setup["learning"] if r.get("phase") == phase]
        axis.plot(*np.array(curve).T, color=COLOURS[0], linewidth=1)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
        axis.set_xlabel("step")
        axis.set_title(label)
    figure.tight_layout()
    return figure


# --- pictures of the world -----------------------------------------------------------------------------------------


def _tiles_figure(
    tiles: Sequence[Tile], results: Path, columns: int, height: float, width: int, sizes: tuple[float, float]
) -> Figure | None:
    """Tiles in rows; `height` is that of a row in inches, `width` the characters in a line, `sizes` as in draw_tile."""
    if not tiles:
        return None
    use_style()
    rows = -(-len(tiles) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(TWO_COLUMNS, height * rows), squeeze=False)
    for axis in axes.flat[len(tiles) :]:
        axis.set_axis_off()
    for axis, tile in zip(axes.flat, tiles, strict=False):
        draw_tile(axis, tile, results, width, sizes)
    figure.tight_layout(pad=0.3, h_pad=0.8, w_pad=0.6)
    return figure


def objects_figure(gallery: Mapping[str, Any], results: Path) -> Figure | None:
    """The objects of GlyphWorld, with name and kind."""
    return _tiles_figure(gallery.get("objects", ()), results, columns=10, height=0.98, width=20, sizes=(6.5, 6))


def scenes_figure(gallery: Mapping[str, Any], results: Path) -> Figure | None:
    """Scenes with a short caption, a long caption, and a question with its answer."""
    return _tiles_figure(gallery.get("scenes", ()), results, columns=5, height=2.9, width=23, sizes=(7.5, 7))


def looks_figure(gallery: Mapping[str, Any], results: Path) -> Figure | None:
    """One scene in several looks; IND and OOD name those that evaluation uses."""
    return _tiles_figure(gallery.get("looks", ()), results, columns=5, height=1.75, width=24, sizes=(7.5, 7))


def rows_figure(gallery: Mapping[str, Any], results: Path) -> Figure | None:
    """Rows of the benchmark: the query, its right candidate, and some wrong ones."""
    return _tiles_figure(gallery.get("rows", ()), results, columns=6, height=2.05, width=24, sizes=(7.5, 6.5))


# --- speed and memory ----------------------------------------------------------------------------------------------


def speed_table(benchmarks: Mapping[str, Any]) -> pd.DataFrame:
    """Measured speed and memory of the embedder, the gradient cache and the miner; each with what it is compared to."""
    encode, cache, mine = (benchmarks[name] for name in ("embedding", "gradcache", "mining"))
    largest = str(max(map(int, cache["peak_memory_above_inputs_mib_by_pairs"]["plain"])))
    memory = {way: one[largest] for way, one in cache["peak_memory_above_inputs_mib_by_pairs"].items()}
    seconds = cache["seconds_median"]
    rows = [
        ("embedding", "items a second", f"{encode['items']} items", "a plain loop",
         f"{encode['ours_items_per_second']:.0f}", f"{encode['plain_items_per_second']:.0f}"),
        ("gradient cache", "seconds a batch", f"{cache['pairs']} pairs", "one big batch",
         f"{seconds['cached']:.2f}", f"{seconds['plain']:.2f}"),
        ("gradient cache", "seconds a batch", f"{cache['pairs']} pairs", "sentence-transformers' cache",
         f"{seconds['cached']:.2f}", f"{seconds['sentence_transformers']:.2f}"),
        ("gradient cache", "peak memory above inputs (MiB)", f"{largest} pairs", "one big batch",
         f"{memory['cached']:.0f}", f"{memory['plain']:.0f}"),
    ]  # fmt: skip
    for case, one in mine["cases"].items():
        slow = [f"{np.median(one[key]):.2f}" for key in ("row_at_a_time_seconds",) if key in one]
        ours = f"{np.median(one['seconds']):.2f}"
        rows.append(("SaHa", "seconds", case, "a row at a time", ours, *(slow or ["–"])))
    return pd.DataFrame(rows, columns=["what", "measure", "of", "compared with", "ours", "theirs"])


def speed_figure(benchmarks: Mapping[str, Any]) -> Figure:
    """Speed of embedding, memory of a training step, and time of mining, measured on one machine."""
    use_style()
    figure, axes = plt.subplots(1, 3, figsize=(TWO_COLUMNS, 2.4), width_ratios=(1.25, 1, 1))
    encode, mine = benchmarks["embedding"], benchmarks["mining"]["cases"]
    names = {"plain": "plain\nloop", "ours": "Embedder", "floor": "arithmetic\nalone"}
    rates = [encode[f"{key}_items_per_second"] for key in names]
    axes[0].bar(list(names.values()), rates, color=[COLOURS[i] for i in (5, 1, 6)], edgecolor="black", linewidth=0.5)
    axes[0].set_title("embedding: items a second")
    axes[0].grid(visible=False, axis="x")
    for index, (way, by_pairs) in enumerate(benchmarks["gradcache"]["peak_memory_above_inputs_mib_by_pairs"].items()):
        label = {"plain": "one big batch", "cached": "gradient cache"}[way]
        axes[1].plot([int(one) for one in by_pairs], list(by_pairs.values()), label=label, markersize=4, **look(index))
    pairs = [int(one) for one in by_pairs]
    axes[1].set(xscale="log", yscale="log", title="a training step: MiB", xlabel="pairs")
    axes[1].set_xticks(pairs, pairs)
    axes[1].xaxis.set_minor_formatter(NullFormatter())
    axes[1].legend(frameon=False)
    sizes = sorted((_pairs_of(case), one) for case, one in mine.items() if " x 1 536" in case)
    ours = [(n, np.median(one["seconds"])) for n, one in sizes]
    axes[2].plot(*np.array(ours).T, label="SaHa", markersize=4, **look(1))
    slow = [(n, np.median(one["row_at_a_time_seconds"])) for n, one in sizes if "row_at_a_time_seconds" in one]
    axes[2].plot(*np.array(slow).T, label="a row at a time", **{**look(0), "linestyle": "none"})
    axes[2].set(xscale="log", yscale="log", title="mining: seconds", xlabel="pairs")
    axes[2].set_ylim(bottom=min(value for _, value in ours) / 5)  # room for the legend below the line
    axes[2].legend(frameon=False, loc="lower right")
    axes[2].set_xticks([n for n, _ in ours], [f"{n:,}".replace(",", " ") for n, _ in ours])
    axes[2].xaxis.set_minor_formatter(NullFormatter())
    for axis in axes[1:]:
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter(NullFormatter())
    figure.tight_layout(pad=0.5)
    return figure


def _pairs_of(case: str) -> int:
    """The number of pairs in the name of a case of the miner's benchmark, such as "growth: 25 000 x 1 536"."""
    return int(case.partition(": ")[2].partition(" x ")[0].replace(" ", ""))
