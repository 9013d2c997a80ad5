"""Pictures of the embedded world for people: tiles (see pictures) whose `image` is a picture or, once saved, a file."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from g2e_lib.data.items import EvalRow, Item
from g2e_lib.glyphworld.world.language import long_caption, questions, short_caption
from g2e_lib.glyphworld.world.render import STEEP, TILTED, Style, render
from g2e_lib.glyphworld.world.scenes import Scene, Thing, sample_scene
from g2e_lib.glyphworld.world.vocabulary import COLOURS, KIND_OF, OBJECTS
from g2e_lib.project.pictures import save_picture


def object_tiles() -> list[dict[str, Any]]:
    """All objects, each in one colour, with name and kind."""
    tiles = []
    for index, name in enumerate(OBJECTS):
        scene = Scene("white", (Thing(0, name, tuple(COLOURS)[index % len(COLOURS)]),))
        tiles.append({"image": render(scene, place=0), "title": f"{name}\n({KIND_OF[name]})"})
    return tiles


def scene_tiles(seed: int = 0, count: int = 5) -> list[dict[str, Any]]:
    """Validation scenes with a short caption, a long one, and a question with its answer."""
    rng = random.Random(f"gallery {seed}")
    tiles = []
    for _ in range(count):
        scene = sample_scene(rng, "validation")
        question = rng.choice(questions(scene, rng))
        caption = f"{long_caption(scene, rng)[0]}\n\nQ: {question.text}\nA: {question.answer}"
        tiles.append({"image": render(scene), "title": short_caption(scene, rng)[0], "caption": caption})
    return tiles


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


def look_tiles(seed: int = 0) -> list[dict[str, Any]]:
    """One scene in the plain look, in another view, and in looks that training never shows."""
    scene = sample_scene(random.Random(f"looks {seed}"), "validation", count=4)
    looks = {
        "plain (IND)": (0, Style()),
        "another view (IND)": (1, Style()),
        "tilted": (0, Style(TILTED)),
        "tilted and noisy (OOD)": (0, Style(TILTED, noise=24)),
        "steep": (0, Style(STEEP)),
    }
    return [{"image": render(scene, view, style), "title": title} for title, (view, style) in looks.items()]


def row_tiles(datasets: Mapping[str, Sequence[EvalRow]], names: Sequence[str], wrong: int = 4) -> list[dict[str, Any]]:
    """The first row of the named datasets: the query, the right candidate, and the first wrong ones."""
    tiles = []
    for name in names:
        row = datasets[name][0]
        items = (row.query, *row.candidates[: wrong + 1])
        titles = (f"{name}\nquery", "right", *["wrong"] * wrong)
        tiles += [_item_tile(item, title) for item, title in zip(items, titles, strict=False)]
        tiles += [{"image": "", "text": ""}] * (len(titles) - len(items))  # a row may have few candidates
    return tiles


def _item_tile(item: Item, title: str) -> dict[str, Any]:
    if item.image is None:
        return {"image": "", "text": item.text, "title": title}
    return {"image": item.image, "title": title, "caption": item.text}


def save_gallery(
    datasets: Mapping[str, Sequence[EvalRow]],
    names: Sequence[str],
    results: Path,
    seed: int = 0,
    has_world: bool = True,
) -> dict[str, list[dict[str, Any]]]:
    """Save the named datasets' first rows and, if `has_world`, GlyphWorld: tiles by part, pictures named by file."""
    tiles = {"rows": row_tiles(datasets, names)}
    if has_world:
        tiles |= {"objects": object_tiles(), "scenes": scene_tiles(seed), "looks": look_tiles(seed)}
    return {part: [{**t, "image": save_picture(t["image"], results)} for t in some] for part, some in tiles.items()}
