"""What UniME's filter does in truth: how many of a batch's hard negatives are right answers, with and without it.

On real data "in truth" means what is annotated; see annotated.py.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g2e_lib.data.items import unique
from g2e_lib.data.subsets import Subset
from g2e_lib.embedder import Embedder, encode_cached
from g2e_lib.evaluation.annotated import AnnotatedJudge
from g2e_lib.evaluation.statistics import difference_of_ratios, estimate_ratio
from g2e_lib.experiments.negatives import judge_of
from g2e_lib.experiments.study import Arm, Laboratory
from g2e_lib.experiments.unime_study import margin_name
from g2e_lib.glyphworld.truth import Judge
from g2e_lib.glyphworld.world.scenes import matches
from g2e_lib.project.store import Store
from g2e_lib.prompts import Role
from g2e_lib.train import number_targets
from g2e_lib.unime import choose_negatives

Row = tuple[int, int]  # number of a subset, row in it


def right_answers(judges: Sequence[Judge | AnnotatedJudge], batch: Sequence[Row]) -> np.ndarray:
    """For each query of a batch which of the batch's positives are right answers to it: (B, B) bool.

    GlyphWorld's truth holds across subsets; what is annotated is known within a subset only.
    """

    def is_right(query: Row, other: Row) -> bool:
        one, another = judges[query[0]], judges[other[0]]
        if isinstance(one, Judge) and isinstance(another, Judge):
            return matches(one.queries[query[1]], another.targets[other[1]])
        return query[0] == other[0] and one.is_right(query[1], other[1])

    return np.array([[is_right(query, other) for other in batch] for query in batch])


def judge_filter(
    root: Path,
    embedder: Embedder,
    subsets: Sequence[Subset],
    margins: Sequence[float],
    top_k: int,
    batches: tuple[int, int],
    store: Store,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw batches as training does, choose every query's hard negatives, and judge them by the scenes.

    Args:
        root: folder of the data; what is known in truth is in root / "train".
        embedder: with its prompt, at the point of training that is asked about.
        subsets: training subsets.
        margins: beta; the last one is what the others are compared with.
        top_k: K.
        batches: how many, and pairs in each.
        store: keeps embeddings.
        seed: of the batches.

    Returns:
        `rates`: by margin the share of chosen negatives that are right answers, in percent, with an interval over
        queries; `differences`: rates against the last margin, in points; `dropped`: by margin the share of the
        batch's right answers that the filter takes away, empty where the batches have none. Right answers identical
        to the positive are never chosen and not counted.
    """
    judges = [judge_of(root, subset) for subset in subsets]
    ids = number_targets(subsets)
    rows = [(i, row) for i, subset in enumerate(subsets) for row in range(len(subset.pairs))]
    rng, (count, size) = random.Random(f"filter {seed}"), batches
    drawn = [rng.sample(rows, min(size, len(rows))) for _ in range(count)]
    pairs = [[subsets[i].pairs[row] for i, row in batch] for batch in drawn]

    def embed(role: Role) -> np.ndarray:  # only what was drawn: real subsets are large
        items, places = unique(getattr(pair, role) for some in pairs for pair in some)
        return encode_cached(embedder, items, role, store)[places].reshape(count, len(drawn[0]), -1)

    chosen: dict[float, list[list[int]]] = {margin: [] for margin in margins}
    dropped: dict[float, list[list[int]]] = {margin: [] for margin in margins}
    for batch, queries, targets in zip(drawn, embed("query"), embed("target"), strict=True):
        similarity = torch.from_numpy(queries @ targets.T)
        numbers = torch.tensor([ids[subsets[i].pairs[row].target] for i, row in batch])
        is_other = (numbers[:, None] != numbers).numpy()
        is_right = right_answers(judges, batch) & is_other
        for margin in margins:
            is_chosen = choose_negatives(similarity, numbers, margin, top_k).numpy()
            chosen[margin] += np.stack(((is_chosen & is_right).sum(1), is_chosen.sum(1)), 1).tolist()
            is_near = (similarity > similarity.diagonal()[:, None] + margin).numpy()
            dropped[margin] += np.stack(((is_near & is_right).sum(1), is_right.sum(1)), 1).tolist()
    names = {margin: margin_name(margin) for margin in margins}
    last = {"all": chosen[margins[-1]]}
    has_right = any(whole for _, whole in dropped[margins[-1]])
    return {
        "rates": {names[m]: vars(estimate_ratio({"all": chosen[m]})) for m in margins},
        "dropped": {names[m]: vars(estimate_ratio({"all": dropped[m]})) for m in margins if has_right},
        "differences": {names[m]: vars(difference_of_ratios({"all": chosen[m]}, last)) for m in margins[:-1]},
    }


def judge_stages(
    root: Path,
    laboratory: Laboratory,
    moments: Mapping[str, Arm],
    margins: Sequence[float],
    top_k: int,
    batches: tuple[int, int],
) -> dict[str, Any]:
    """judge_filter at several moments of training, each named and given by the arm trained up to it."""
    subsets = laboratory.training_subsets()
    return {
        moment: judge_filter(root, laboratory.embedder(arm), subsets, margins, top_k, batches, laboratory.embeddings)
        for moment, arm in moments.items()
    }
