"""Text alone from GlyphWorld: pairs of captions that say the same of one scene, and retrieval by captions.

Pairs teach the text teacher and carry its similarities to the student (UniME, stage 1); retrieval is UniME's
evaluation with short and with long captions, in which every caption is true of one picture only.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from g2e_lib.data.items import EvalRow, Item
from g2e_lib.data.mmeb import TRAIN_SCHEMA
from g2e_lib.glyphworld.datasets import Picture
from g2e_lib.glyphworld.world.language import long_caption, short_caption
from g2e_lib.glyphworld.world.scenes import Claim, Scene, Split, sample_scene
from g2e_lib.project.config import fingerprint
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import build_once

VERSION = 1  # raise when the content changes
PARAPHRASES = "Paraphrases"  # the training subset's name
Caption = Callable[[Scene, random.Random], tuple[str, Claim]]
CAPTIONS: dict[str, Caption] = {"short": short_caption, "long": long_caption}


def paraphrases(count: int, split: Split) -> list[tuple[str, str]]:
    """Distinct pairs of different sentences about one scene each: short or long ones, or one of either kind.

    Args:
        count: how many.
        split: whose scenes.
    """
    rng, pairs = random.Random(f"paraphrases {split} {VERSION}"), {}
    while len(pairs) < count:
        scene = sample_scene(rng, split)
        one, other = (rng.choice((short_caption, long_caption))(scene, rng)[0] for _ in range(2))
        if one != other:
            pairs[one, other] = None
    return list(pairs)


def write_pairs(root: Path, subset: str, pairs: Sequence[tuple[str, str]]) -> None:
    """Write pairs of sentences as one training subset in MMEB-train's format, in a folder that is not there yet."""
    rows = [dict.fromkeys(TRAIN_SCHEMA.names, "") | {"qry": query, "pos_text": target} for query, target in pairs]
    (root / subset).mkdir(parents=True)
    path = root / subset / "original-00000-of-00001.parquet"
    pq.write_table(pa.Table.from_pylist(rows, TRAIN_SCHEMA), path, compression="none")


def retrieval_rows(queries: Sequence[Item], targets: Sequence[Item]) -> list[EvalRow]:
    """Rows in which target i is right for query i, and all other targets are wrong."""
    return [EvalRow(query, (targets[i], *targets[:i], *targets[i + 1 :])) for i, query in enumerate(queries)]


def prepare_paraphrases(cache: Path, count: int, split: Split = "train") -> Path:
    """A folder with one training subset, PARAPHRASES, in MMEB-train's format; made if it is not there.

    Args:
        cache: folder of everything that can be made again.
        count: pairs.
        split: whose scenes.
    """
    key = fingerprint([VERSION, count, split, code_fingerprint("glyphworld.sentences")])
    root = cache / f"paraphrases-{key}"
    return build_once(root, lambda partial: write_pairs(partial, PARAPHRASES, paraphrases(count, split)))


def captioned_scenes(style: str, count: int, split: Split) -> list[tuple[Scene, str]]:
    """Scenes with one caption each, no caption true of another scene among them.

    Args:
        style: a name in CAPTIONS.
        count: how many.
        split: whose scenes.
    """
    rng = random.Random(f"retrieval {style} {split} {VERSION}")
    found: list[tuple[Scene, str, Claim]] = []
    while len(found) < count:
        scene = sample_scene(rng, split)
        text, claim = CAPTIONS[style](scene, rng)
        is_clear = not any(claim.holds(other) or said.holds(scene) for other, _, said in found)
        if is_clear:
            found.append((scene, text, claim))
    return [(scene, text) for scene, text, _ in found]


def prepare_retrieval(cache: Path, count: int = 300, split: Split = "test") -> dict[str, list[EvalRow]]:
    """Retrieval among `count` pictures and their captions, both ways, for every style of caption.

    Args:
        cache: folder of everything that can be made again; receives the pictures.
        count: pictures of each style; each query has all others' as wrong candidates.
        split: whose scenes.

    Returns:
        Rows by name: `short_i2t`, `short_t2i`, `long_i2t`, `long_t2i`.
    """
    made = {style: [(Picture(s), t) for s, t in captioned_scenes(style, count, split)] for style in CAPTIONS}
    key = fingerprint([VERSION, count, split, code_fingerprint("glyphworld.sentences")])
    folder = cache / f"retrieval-mini-{key}"

    def build(partial: Path) -> None:
        (partial / "images").mkdir(parents=True)
        for picture in {picture for some in made.values() for picture, _ in some}:
            picture.save(partial)

    build_once(folder, build)
    rows: dict[str, list[EvalRow]] = {}
    for style, some in made.items():
        images, texts = [Item("", folder / picture.path) for picture, _ in some], [Item(text) for _, text in some]
        rows |= {f"{style}_i2t": retrieval_rows(images, texts), f"{style}_t2i": retrieval_rows(texts, images)}
    return rows
