"""SugarCrepe and SugarCrepe++: can an embedder tell a caption from a fluent one that is slightly wrong?

An image is a target, captions are queries with CAPTION_PREFIX (Gen2Embed, section 5). Ties are wrong.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from g2e_lib.data.items import Item, unique
from g2e_lib.data.sugarcrepe import CAPTION_PREFIX, SUGARCREPE, CrepeRow
from g2e_lib.embedder import Embedder, encode_cached
from g2e_lib.evaluation.compare import compare, write_answers
from g2e_lib.project.pictures import save_picture
from g2e_lib.project.store import Store

KINDS = ("image", "text")
Sets = Mapping[str, Mapping[str, Sequence[CrepeRow]]]  # "sugarcrepe" and "sugarcrepe_pp" -> subset -> rows


def score_rows(
    image_embeddings: np.ndarray, caption_embeddings: np.ndarray, negative_embeddings: np.ndarray
) -> dict[str, np.ndarray]:
    """Tell for each row whether it is right, from (N, D) and, of C = 1 or 2 true captions, (N, C, D) float32 unit rows.

    Returns `image`: (N,) bool, every true caption beats the negative against the image; `margin`: (N,) float32, by how
    much; with two captions `text`: (N,) bool, they are closer to each other than either is to the negative.
    """
    positive = np.einsum("ncd,nd->nc", caption_embeddings, image_embeddings)
    negative = np.einsum("nd,nd->n", negative_embeddings, image_embeddings)
    right = {"image": positive.min(1) > negative, "margin": positive.min(1) - negative}
    if caption_embeddings.shape[1] == 2:
        pair = np.einsum("nd,nd->n", caption_embeddings[:, 0], caption_embeddings[:, 1])
        to_negative = np.einsum("ncd,nd->nc", caption_embeddings, negative_embeddings)
        right["text"] = pair > to_negative.max(1)
    return right


def evaluate_sugarcrepe(
    embedder: Embedder, subsets: Mapping[str, Sequence[CrepeRow]], store: Store, show_progress: bool = True
) -> dict[str, dict[str, np.ndarray]]:
    """By subset, none empty, what score_rows returns; shared items are encoded once. All rows have their image."""
    texts, text_rows = unique(
        CAPTION_PREFIX + text for rows in subsets.values() for row in rows for text in (*row.captions, row.negative)
    )
    images, image_rows = unique(row.image for rows in subsets.values() for row in rows)
    queries = encode_cached(embedder, [Item(text) for text in texts], "query", store, show_progress=show_progress)
    targets = encode_cached(
        embedder, [Item("", image) for image in images], "target", store, show_progress=show_progress
    )
    scores, text_start, image_start = {}, 0, 0
    for name, rows in subsets.items():
        width = len(rows[0].captions) + 1
        embedded = queries[text_rows[text_start : text_start + width * len(rows)]].reshape(len(rows), width, -1)
        shown = targets[image_rows[image_start : image_start + len(rows)]]
        scores[name] = score_rows(shown, embedded[:, :-1], embedded[:, -1])
        text_start, image_start = text_start + width * len(rows), image_start + len(rows)
    return scores


def group_subsets(names: Iterable[str]) -> dict[str, list[str]]:
    """The averages the papers print: for each group, and for all (`mean`), the subsets that enter."""
    groups: dict[str, list[str]] = {}
    for name in names:
        for group in (SUGARCREPE[name], "mean"):
            groups.setdefault(group, []).append(name)
    return groups


def compare_models(
    embedders: Mapping[str, Callable[[], Embedder]], sets: Sets, baselines: Sequence[str], store: Store, seed: int = 0
) -> tuple[dict[str, Any], dict[str, dict[str, dict]]]:
    """Score several embedders, made one after the other, on both sets, and compare later ones with the baselines.

    Returns:
        `sets`: set -> kind ("image", "text") -> method -> `subsets` and `groups`, estimates in percent, and `right`;
            `differences`: set -> kind -> baseline -> method -> group, in points; and besides, by set and method what
            evaluate_sugarcrepe returns.
    """
    scores: dict[str, dict[str, dict]] = {name: {} for name in sets}
    for method, make in embedders.items():
        embedder = make()
        for name, subsets in sets.items():
            scores[name][method] = evaluate_sugarcrepe(embedder, subsets, store)
    metrics: dict[str, Any] = {"sets": {}, "differences": {}}
    for name, by_method in scores.items():
        groups = group_subsets(sets[name])
        for kind in KINDS if name == "sugarcrepe_pp" else KINDS[:1]:
            records = {
                method: [{"right": write_answers({subset: found[kind] for subset, found in by_subset.items()})}]
                for method, by_subset in by_method.items()
            }
            found = compare(records, groups, baselines, seed)
            methods = {m: {"subsets": one.pop("datasets"), **one} for m, one in found["methods"].items()}
            metrics["sets"].setdefault(name, {})[kind] = methods
            metrics["differences"].setdefault(name, {})[kind] = found["differences"]
    return metrics, scores


def worst_rows(
    scores: Mapping[str, Mapping[str, Mapping[str, np.ndarray]]], subsets: Mapping[str, Sequence[CrepeRow]]
) -> dict[str, list[dict[str, Any]]]:
    """For each method and group the row it gets most wrong, from SugarCrepe's scores: what the gallery shows.

    Returns by method records of `group`, `subset`, `row`, `image` (a path), `caption`, `negative`, `margin` (cosine of
    caption minus cosine of negative) and `wrong`, how many of the group's rows are; groups without any are left out.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for method, by_subset in scores.items():
        found[method] = []
        for group in dict.fromkeys(SUGARCREPE[name] for name in subsets):
            members = [name for name in subsets if SUGARCREPE[name] == group]
            margins = [(float(by_subset[n]["margin"][i]), n, i) for n in members for i in range(len(subsets[n]))]
            margin, subset, row = min(margins)
            if margin <= 0:
                shown = subsets[subset][row]
                wrong = sum(one <= 0 for one, *_ in margins)
                record = {"group": group, "subset": subset, "row": row, "image": str(shown.image)}
                record |= {"caption": shown.captions[0], "negative": shown.negative, "margin": margin}
                found[method].append(record | {"wrong": wrong, "of": len(margins)})
    return found


def save_gallery(found: Mapping[str, Sequence[dict[str, Any]]], results: Path) -> dict[str, list[dict[str, Any]]]:
    """The records of `worst_rows` with small copies of their pictures: `image` becomes a path relative to `results`."""
    return {
        method: [{**record, "image": save_picture(record["image"], results)} for record in records]
        for method, records in found.items()
    }
