"""Figures with pictures (the world, one query mined, captions confused), and those of base model and speed.

A tile is a record: `image`, the name of a picture's file or "", and texts to go with it.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter
from PIL import Image

from g2e_lib.report.look import COLOURS, finish, grid, look, panels, plain_log_ticks
from g2e_lib.report.registry import figure
from g2e_lib.report.score_tables import CREPE_GROUPS
from g2e_lib.report.text import display

FATES = {"kept": COLOURS[1], "too similar in query space": COLOURS[2], "own positive": COLOURS[3]}
FATES["not looked at"] = "0.5"


def draw_tile(
    axis: Axes,
    tile: Mapping[str, Any],
    results: Path,
    width: int = 26,
    sizes: Sequence[float] = (7, 6),
    colour: str = "0.6",
) -> None:
    """Draw a tile: its picture, or else its `text`, between `title` and `caption`.

    Args:
        axis: to draw on.
        tile: the record.
        results: folder that `image` is relative to.
        width: characters in a line.
        sizes: of the letters of the title, and of everything else, in points.
        colour: of the frame.
    """
    title, small = sizes
    if tile["image"]:
        with Image.open(results / tile["image"]) as image:
            axis.imshow(image.convert("RGB"), interpolation="nearest")
    else:
        axis.imshow(np.full((64, 64, 3), 255, dtype=np.uint8))
        axis.text(32, 32, fill(tile["text"], width - 6), ha="center", va="center", fontsize=small)
    axis.set_title(_wrap(tile.get("title", ""), width), fontsize=title)
    axis.set_xlabel(_wrap(tile.get("caption", ""), width), fontsize=small)
    axis.set(xticks=[], yticks=[])
    axis.grid(visible=False)
    for side in axis.spines.values():
        side.set(edgecolor=colour, linewidth=0.8 if colour == "0.6" else 2.2, visible=True)


def _wrap(text: str, width: int) -> str:
    return "\n".join(fill(line, width) for line in text.split("\n"))


def tiles_figure(gallery: Mapping[str, Any], results: Path, of: str, layout: Sequence[float]) -> Figure | None:
    """Tiles in rows.

    Its `layout` is: tiles in a row, height of a row in inches, characters in a line, sizes of letters as in draw_tile.
    """
    columns, height, width, *sizes = layout
    if not (tiles := gallery.get(of, ())):
        return None
    drawn, axes = grid(len(tiles), columns, height)
    for axis, tile in zip(axes, tiles, strict=True):
        draw_tile(axis, tile, results, width, sizes)
    drawn.tight_layout(pad=0.3, h_pad=0.8, w_pad=0.6)
    return drawn


for _name, _of, _layout, _caption in (
    ("glyphworld_objects", "objects", (10, 0.98, 20, 6.5, 6), "the objects of GlyphWorld, with name and kind"),
    ("glyphworld_scenes", "scenes", (5, 2.9, 23, 7.5, 7), "scenes, two captions each, a question and its answer"),
    ("glyphworld_looks", "looks", (5, 1.75, 24, 7.5, 7), "one scene in several looks; evaluation uses IND and OOD"),
    ("mmeb_mini_rows", "rows", (6, 2.05, 24, 7.5, 6.5), "rows of the benchmark: query, right candidate, wrong ones"),
):
    figure(_name, needs=("gallery",), label=_caption, of=_of, layout=_layout)(tiles_figure)


@figure("mining_steps", needs=("mining_example",))
def steps_figure(example: Mapping[str, Any], results: Path, columns: int = 6, unseen: int = 2) -> Figure:
    """A query and the targets retrieved for it, nearest first, with their owners' captions and what becomes of them.

    Of the targets that are not looked at, `unseen` are drawn; the table has all of them.
    """
    looked_at = sum(step["fate"] != "not looked at" for step in example["steps"])
    steps = example["steps"][: looked_at + unseen]
    owners = [step["owner_text"] for step in steps if step["owner"] >= 0]
    task = _common_words([example["anchor"]["text"], *owners])
    drawn, (query, *places) = grid(len(steps) + 1, columns, 1.95)
    anchor = {**example["anchor"], "text": example["anchor"]["text"].removeprefix(task), "title": "the query"}
    draw_tile(query, anchor, results, 22, (7.5, 7.5))
    for rank, (axis, step) in enumerate(zip(places, steps, strict=True), 1):
        colour = FATES[step["fate"]]
        draw_tile(axis, _step_tile(rank, step, task), results, 25, (7.5, 6.5), colour)
        axis.title.set(color=colour if colour != "0.5" else "0.35")
    for axis in drawn.axes[len(steps) + 1 :]:
        axis.set_visible(False)
    drawn.tight_layout(pad=0.4, h_pad=0.8)
    return drawn


def _step_tile(rank: int, step: Mapping[str, Any], task: str) -> dict[str, str]:
    fate = step["fate"].replace("too similar in query space", "dropped")
    right = "\n(in truth right)" if step["is_right"] and step["fate"] != "own positive" else ""
    has_owner = step["owner"] >= 0
    owner = f"owner: {step['owner_text'].removeprefix(task)}\n" if has_owner else ""
    queries = f", queries {step['owner_cosine']:.2f}" if has_owner else ""
    caption = f"{owner}target {step['target_cosine']:.2f}{queries}"
    shown = {"image": step["target_image"], "text": step["target_text"]}
    return {**shown, "title": f"{rank}. {fate}{right}", "caption": caption}


def _common_words(texts: Sequence[str]) -> str:
    """What all texts begin with, up to a colon: the task, which need not be told again and again."""
    common = os.path.commonprefix(list(texts))
    return common[: common.rindex(": ") + 2] if ": " in common else ""


@figure("sugarcrepe_gallery", needs=("sugarcrepe",))
def crepe_gallery_figure(metrics: Mapping[str, Any], results: Path) -> Figure:
    """For each method and group the row it gets most wrong, with both captions."""
    methods = [m for m in metrics["gallery"] if not m.startswith("zero_shot:") or m == "zero_shot:hierarchical"]
    groups = CREPE_GROUPS[:-1]
    drawn, axes = panels(len(methods), len(groups), 1.05 * len(methods))
    for line, method in zip(axes, methods, strict=True):
        shown = {wrong["group"]: wrong for wrong in metrics["gallery"][method]}
        for axis, group in zip(line, groups, strict=True):
            axis.set_axis_off()
            axis.set_xlim(0, 3.2)
            axis.set_ylim(1, 0)
            if group in shown:
                _confused(axis, shown[group], results)
            else:
                axis.text(0.1, 0.5, f"{group}: no row is wrong", fontsize=7, va="center")
        line[0].text(-0.05, 0.5, fill(display(method), 16), rotation=90, fontsize=6, ha="right", va="center")
    return finish(drawn, pad=0.3)


def _confused(axis: Axes, wrong: Mapping[str, Any], results: Path) -> None:
    """A picture with its true caption and the one preferred to it."""
    with Image.open(results / wrong["image"]) as image:
        axis.imshow(np.asarray(image.convert("RGB")), extent=(0, 1, 1, 0), aspect="equal")
    axis.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor="0.6", linewidth=0.5))
    head = f"{wrong['subset']} ({wrong['group']}: {wrong['wrong']} of {wrong['of']} wrong)"
    texts = ((0.0, head, "black"), (0.22, f"true: {wrong['caption']}", COLOURS[1]))
    texts += ((0.62, f"preferred: {wrong['negative']} (by {-wrong['margin']:.2f})", COLOURS[2]),)
    for height, text, colour in texts:
        axis.text(1.06, height, fill(text, 40), fontsize=5, color=colour, va="top")
    axis.set_xlim(0, 3.2)


# --- base model and speed ------------------------------------------------------------------------------------------


@figure("base_model_learning_curve", needs=("setup",))
def learning_curve_figure(setup: Mapping[str, Any]) -> Figure | None:
    """Loss of both phases of the base model's pre-training over their steps."""
    if not setup["learning"]:
        return None
    phases = {"vision": "vision tower: loss (nats a cell)", "language": "language: loss (nats a token)"}
    drawn, axes = panels(1, 2, 2.2)
    for axis, (phase, label) in zip(axes[0], phases.items(), strict=True):
        curve = [(r["step"], r["loss"]) for r in setup["learning"] if r.get("phase") == phase]
        axis.plot(*np.array(curve).T, color=COLOURS[0], linewidth=1)
        axis.set_yscale("log")
        plain_log_ticks(axis)
        axis.set(xlabel="step", title=label)
    return finish(drawn, pad=1.08)


@figure("speed", needs=("benchmarks",))
def speed_figure(benchmarks: Mapping[str, Any]) -> Figure:
    """Speed of embedding, memory of a training step, and time of mining, measured on one machine."""
    drawn, axes = panels(1, 3, 2.4, width_ratios=(1.25, 1, 1))
    rates, memory, times = axes[0]
    names = {"plain": "plain\nloop", "ours": "Embedder", "floor": "arithmetic\nalone"}
    heights = [benchmarks["embedding"][f"{key}_items_per_second"] for key in names]
    rates.bar(list(names.values()), heights, color=[COLOURS[i] for i in (5, 1, 6)], edgecolor="black", linewidth=0.5)
    rates.set_title("embedding: items a second")
    rates.grid(visible=False, axis="x")
    labels = {"plain": "one big batch", "cached": "gradient cache"}
    for index, (way, by_pairs) in enumerate(benchmarks["gradcache"]["peak_memory_above_inputs_mib_by_pairs"].items()):
        memory.plot([int(n) for n in by_pairs], list(by_pairs.values()), label=labels[way], markersize=4, **look(index))
    pairs = [int(number) for number in by_pairs]
    _log_log(memory, "a training step: MiB", pairs, pairs)
    memory.legend(frameon=False)
    _mining_times(times, benchmarks["mining"]["cases"])
    for axis in axes[0][1:]:
        plain_log_ticks(axis)
    return finish(drawn, pad=0.5)


def _mining_times(axis: Axes, cases: Mapping[str, Any]) -> None:
    sizes = sorted((_pairs_of(case), found) for case, found in cases.items() if " x 1 536" in case)
    ours, slow = (
        [(n, np.median(found[key])) for n, found in sizes if key in found]
        for key in ("seconds", "row_at_a_time_seconds")
    )
    axis.plot(*np.array(ours).T, label="SaHa", markersize=4, **look(1))
    axis.plot(*np.array(slow).T, label="a row at a time", **{**look(0), "linestyle": "none"})
    _log_log(axis, "mining: seconds", [n for n, _ in ours], [f"{n:,}".replace(",", " ") for n, _ in ours])
    axis.set_ylim(bottom=min(value for _, value in ours) / 5)  # room for the legend below the line
    axis.legend(frameon=False, loc="lower right")


def _log_log(axis: Axes, title: str, pairs: list[int], labels: list) -> None:
    axis.set(xscale="log", yscale="log", title=title, xlabel="pairs")
    axis.set_xticks(pairs, labels)
    axis.xaxis.set_minor_formatter(NullFormatter())


def _pairs_of(case: str) -> int:
    """The number of pairs in the name of a case of the miner's benchmark, such as "growth: 25 000 x 1 536"."""
    return int(case.partition(": ")[2].partition(" x ")[0].replace(" ", ""))
