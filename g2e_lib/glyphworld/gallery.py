"""Pictures of the embedded world for people: what it contains, how it is described, what the benchmark asks."""

import random
from collections.abc import Mapping, Sequence
from textwrap import fill

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from g2e_lib.data import EvalRow, Item
from g2e_lib.glyphworld.language import long_caption, questions, short_caption
from g2e_lib.glyphworld.render import STEEP, TILTED, Style, crop_cell, render
from g2e_lib.glyphworld.scenes import Scene, Thing, sample_scene
from g2e_lib.glyphworld.vocabulary import COLOURS, KIND_OF, OBJECTS
from g2e_lib.report import TWO_COLUMNS, use_style


def _show(axis: Axes, image: Image.Image, title: str = "", caption: str = "", width: int = 26) -> None:
    axis.imshow(image, interpolation="nearest")
    axis.set_title(fill(title, width), fontsize=7)
    axis.set_xlabel(fill(caption, width), fontsize=5.5)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)


def objects_figure(columns: int = 15) -> Figure:
    """All objects, each in one colour, with name and kind."""
    use_style()
    rows = -(-len(OBJECTS) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(TWO_COLUMNS, 0.72 * rows))
    for axis in axes.flat:
        axis.set_axis_off()
    for index, (axis, name) in enumerate(zip(axes.flat, OBJECTS, strict=False)):
        colour = tuple(COLOURS)[index % len(COLOURS)]
        cell = crop_cell(render(Scene("white", (Thing(0, name, colour),))), 0)
        axis.imshow(cell, interpolation="nearest")
        axis.set_title(f"{name}\n({KIND_OF[name]})", fontsize=5)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.01, top=0.92, wspace=0.15, hspace=0.75)
    return figure


def scenes_figure(seed: int = 0, count: int = 5) -> Figure:
    """Validation scenes with a short caption, a long one, and a question with its answer."""
    use_style()
    rng = random.Random(f"gallery {seed}")
    figure, axes = plt.subplots(1, count, figsize=(TWO_COLUMNS, 2.6))
    for axis in axes:
        scene = sample_scene(rng, "validation")
        question = rng.choice(questions(scene, rng))
        caption = f"{fill(long_caption(scene, rng)[0], 26)}\n\n{fill(f'Q: {question.text}', 26)}\nA: {question.answer}"
        _show(axis, render(scene), short_caption(scene, rng)[0])
        axis.set_xlabel(caption, fontsize=6)
    figure.tight_layout(pad=0.4)
    return figure


def example_questions(seed: int = 0) -> dict[str, dict]:
    """Items to put to the base model about one validation scene, named by what they ask."""
    rng = random.Random(f"examples {seed}")
    scene = sample_scene(rng, "validation", count=3)
    image, caption = render(scene), long_caption(scene, rng)[0]
    asked = rng.sample(questions(scene, rng), 5)
    items = {f"[picture: {scene.content}] {q.text}": {"image": image, "text": q.text} for q in asked}
    items[f"[picture: {scene.content}] describe the image."] = {"image": image, "text": "describe the image."}
    question = asked[0].text
    return items | {f"{caption} {question}": {"text": f"{caption}\n{question}"}}


def looks_figure(seed: int = 0) -> Figure:
    """One scene in the plain look, in another view, and in looks that training never shows."""
    use_style()
    scene = sample_scene(random.Random(f"looks {seed}"), "validation", count=4)
    looks = {
        "plain (IND)": (0, Style()),
        "another view (IND)": (1, Style()),
        "tilted": (0, Style(TILTED)),
        "tilted and noisy (OOD)": (0, Style(TILTED, noise=24)),
        "steep": (0, Style(STEEP)),
    }
    figure, axes = plt.subplots(1, len(looks), figsize=(TWO_COLUMNS, 1.7))
    for axis, (title, (view, style)) in zip(axes, looks.items(), strict=True):
        _show(axis, render(scene, view, style), title)
    figure.tight_layout(pad=0.4)
    return figure


def rows_figure(datasets: Mapping[str, Sequence[EvalRow]], names: Sequence[str], wrong: int = 4) -> Figure:
    """The first row of some datasets: the query, the right candidate, and the first wrong ones.

    Args:
        datasets: rows by dataset name.
        names: which to draw.
        wrong: how many wrong candidates.
    """
    use_style()
    figure, axes = plt.subplots(len(names), wrong + 2, figsize=(TWO_COLUMNS, 1.9 * len(names)), squeeze=False)
    for axis_row, name in zip(axes, names, strict=True):
        row = datasets[name][0]
        items = (row.query, *row.candidates[: wrong + 1])
        titles = (f"{name}: query", "right", *["wrong"] * wrong)
        for axis, item, title in zip(axis_row, items, titles, strict=False):
            _show_item(axis, item, title)
        for axis in axis_row[len(items) :]:  # a row may have few candidates
            axis.set_axis_off()
    figure.tight_layout(pad=0.4)
    return figure


def _show_item(axis: Axes, item: Item, title: str) -> None:
    if item.image is not None:
        with Image.open(item.image) as image:
            _show(axis, image, title, item.text, width=22)
        return
    _show(axis, Image.new("RGB", (64, 64), "white"), title)
    axis.text(32, 32, fill(item.text, 22), ha="center", va="center", fontsize=6)
