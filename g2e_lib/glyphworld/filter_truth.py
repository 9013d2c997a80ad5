"""What UniME's filter does in truth: how many of a batch's hard negatives are right answers, with and without it."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g2e_lib.embedder import Embedder
from g2e_lib.evaluate import difference_of_ratios, estimate_ratio
from g2e_lib.experiments import Arm, Laboratory
from g2e_lib.glyphworld.benchmark import TRAIN_FOLDER
from g2e_lib.glyphworld.scenes import matches
from g2e_lib.glyphworld.truth import Judge
from g2e_lib.mining import Subset, embed_subset, load_subsets
from g2e_lib.store import Store
from g2e_lib.train import number_targets
from g2e_lib.unime import choose_negatives
from g2e_lib.unime_experiments import margin_name


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
        root: folder of the build the subsets come from.
        embedder: with its prompt, at the point of training that is asked about.
        subsets: training subsets of MMEB-mini.
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
    judges = [Judge(root, subset.name) for subset in subsets]
    ids = number_targets(subsets)
    embedded = [embed_subset(embedder, subset, store) for subset in subsets]
    rows = [(i, row) for i, subset in enumerate(subsets) for row in range(len(subset.pairs))]
    rng, (count, size) = random.Random(f"filter {seed}"), batches
    chosen: dict[float, list[list[int]]] = {margin: [] for margin in margins}
    dropped: dict[float, list[list[int]]] = {margin: [] for margin in margins}
    for _ in range(count):
        batch = rng.sample(rows, size)
        queries = np.stack([embedded[i][0][row] for i, row in batch])
        targets = np.stack([embedded[i][1][subsets[i].positive_of[row]] for i, row in batch])
        similarity = torch.from_numpy(queries @ targets.T)
        numbers = torch.tensor([ids[subsets[i].pairs[row].target] for i, row in batch])
        is_other = (numbers[:, None] != numbers).numpy()
        meanings = [(judges[i].queries[row], judges[i].targets[row]) for i, row in batch]
        is_right = np.array([[matches(query, target) for _, target in meanings] for query, _ in meanings]) & is_other
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
    subsets = load_subsets(root / TRAIN_FOLDER, laboratory.names)
    return {
        moment: judge_filter(root, laboratory.embedder(arm), subsets, margins, top_k, batches, laboratory.embeddings)
        for moment, arm in moments.items()
    }
