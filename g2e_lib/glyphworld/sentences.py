"""Text alone from GlyphWorld: pairs of captions that say the same of one scene, and retrieval by captions.

Pairs teach the text teacher, and its student by it (UniME, stage 1); retrieval is UniME's evaluation.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from g2e_lib.data.items import EvalRow, Item
from g2e_lib.data.mmeb import TRAIN_SCHEMA
from g2e_lib.glyphworld.builds import build_folder, save_pictures, write_table
from g2e_lib.glyphworld.datasets import Picture
from g2e_lib.glyphworld.world.language import Caption, long_caption, short_caption
from g2e_lib.glyphworld.world.scenes import Scene, Split, Statement, sample_scene
from g2e_lib.project.store import build_once

VERSION = 1  # raise when the content changes
PARAPHRASES = "Paraphrases"  # the training subset's name
CAPTIONS: dict[str, Caption] = {"short": short_caption, "long": long_caption}


def paraphrases(count: int, split: Split) -> list[tuple[str, str]]:
    """Distinct pairs of different sentences about one scene each: short or long ones, or one of either kind."""
    rng, pairs = random.Random(f"paraphrases {split} {VERSION}"), {}
    while len(pairs) < count:
        scene = sample_scene(rng, split)
        first, second = (rng.choice((short_caption, long_caption))(scene, rng)[0] for _ in range(2))
        if first != second:
            pairs[first, second] = None
    return list(pairs)


def write_pairs(root: Path, subset: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Write pairs of sentences as one training subset in MMEB-train's format."""
    records = ({"qry": query, "pos_text": target} for query, target in pairs)
    write_table(root / subset / "original-00000-of-00001.parquet", records, TRAIN_SCHEMA)


def retrieval_rows(queries: Sequence[Item], targets: Sequence[Item]) -> list[EvalRow]:
    """Rows in which target i is right for query i, and all other targets are wrong."""
    return [EvalRow(query, (targets[i], *targets[:i], *targets[i + 1 :])) for i, query in enumerate(queries)]


def prepare_paraphrases(cache: Path, count: int, split: Split = "train") -> Path:
    """A folder with one training subset, PARAPHRASES, in MMEB-train's format; made if it is not there."""
    root = build_folder(cache, "paraphrases", "glyphworld.sentences", VERSION, count, split)
    return build_once(root, lambda partial: write_pairs(partial, PARAPHRASES, paraphrases(count, split)))


def captioned_scenes(style: str, count: int, split: Split) -> list[tuple[Scene, str]]:
    """Scenes with one caption each, in a style of CAPTIONS, no caption true of another scene among them."""
    rng = random.Random(f"retrieval {style} {split} {VERSION}")
    found: list[tuple[Scene, str, Statement]] = []
    while len(found) < count:
        scene = sample_scene(rng, split)
        text, statement = CAPTIONS[style](scene, rng)
        if not any(statement.holds(other) or said.holds(scene) for other, _, said in found):
            found.append((scene, text, statement))
    return [(scene, text) for scene, text, _ in found]


def prepare_retrieval(cache: Path, count: int = 300, split: Split = "test") -> dict[str, list[EvalRow]]:
    """Rows by name, {short,long}_{i2t,t2i}, of `count` pictures and captions; pictures lie below `cache`."""
    made = {style: [(Picture(s), t) for s, t in captioned_scenes(style, count, split)] for style in CAPTIONS}
    folder = build_folder(cache, "retrieval-mini", "glyphworld.sentences", VERSION, count, split)
    pictures = [picture for some in made.values() for picture, _ in some]
    build_once(folder, lambda partial: save_pictures(partial, pictures))
    rows: dict[str, list[EvalRow]] = {}
    for style, some in made.items():
        images, texts = [Item("", folder / picture.path) for picture, _ in some], [Item(text) for _, text in some]
        rows |= {f"{style}_i2t": retrieval_rows(images, texts), f"{style}_t2i": retrieval_rows(texts, images)}
    return rows
