"""Scores: MMEB's hit@1, as a vector of right and wrong answers a dataset, and its comparison of prompts."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from g2e_lib.data.items import EvalRow, Item, item_digests, unique
from g2e_lib.embedder import Embedder, encode_cached
from g2e_lib.evaluation.compare import compare, write_answers
from g2e_lib.evaluation.statistics import estimate, group_names
from g2e_lib.project.store import Store

logger = logging.getLogger(__name__)


def hit_at_one(
    query_embeddings: np.ndarray, target_embeddings: np.ndarray, candidates: Sequence[Sequence[int]]
) -> np.ndarray:
    """Tell for each query, (N,) bool, whether its right candidate beats all others; a tie is wrong.

    Embeddings are (N, D) and (M, D) float32, unit rows; `candidates` their rows in the latter, the right one first.

    >>> q, t = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)
    >>> hit_at_one(q, t, [[0, 1], [0, 1]]).tolist()
    [True, False]
    """
    right = np.empty(len(candidates), dtype=bool)
    for i, rows in enumerate(candidates):
        scores = target_embeddings[np.asarray(rows)] @ query_embeddings[i]
        right[i] = len(scores) == 1 or scores[0] > scores[1:].max()
    return right


def evaluate_mmeb(
    embedder: Embedder,
    datasets: Mapping[str, Sequence[EvalRow]],
    store: Store,
    digests: Mapping[Item, str] | None = None,
    show_progress: bool = True,
) -> dict[str, np.ndarray]:
    """Right or wrong, (N,) bool, by dataset; shared items are encoded once. `digests`: of items' content, if known."""
    queries, query_rows = unique(row.query for rows in datasets.values() for row in rows)
    targets, target_rows = unique(item for rows in datasets.values() for row in rows for item in row.candidates)
    query_embeddings = encode_cached(embedder, queries, "query", store, digests, show_progress)
    target_embeddings = encode_cached(embedder, targets, "target", store, digests, show_progress)
    right, query_start, target_start = {}, 0, 0
    for name, rows in datasets.items():
        candidates = []
        for row in rows:
            candidates.append(target_rows[target_start : target_start + len(row.candidates)])
            target_start += len(row.candidates)
        embeddings = query_embeddings[query_rows[query_start : query_start + len(rows)]]
        right[name] = hit_at_one(embeddings, target_embeddings, candidates)
        query_start += len(rows)
        chance = chance_level(rows)
        if is_at_chance(right[name], chance):
            logger.warning("%s: hit@1 %.1f %%, chance is %.1f %%", name, 100 * right[name].mean(), 100 * chance)
    return right


def chance_level(rows: Sequence[EvalRow]) -> float:
    """The expected score of guessing, 0 to 1."""
    return float(np.mean([1 / len(row.candidates) for row in rows]))


def is_at_chance(right: np.ndarray, chance: float) -> bool:
    """Tell whether the interval of a score, answers (N,) bool, reaches down to chance level, 0 to 1."""
    return estimate({"": right}).low / 100 <= chance


def describe_datasets(
    datasets: Mapping[str, Sequence[EvalRow]], info: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Meta-task, distribution, number of queries and chance level in percent of each dataset."""
    return {
        name: {
            "meta_task": info[name]["meta_task"],
            "distribution": info[name]["distribution"],
            "n": len(rows),
            "chance": round(100 * chance_level(rows), 4),
        }
        for name, rows in datasets.items()
    }


def score_prompts(
    embedder: Embedder,
    prompts: Sequence[str],
    datasets: Mapping[str, Sequence[EvalRow]],
    info: Mapping[str, Mapping[str, Any]],
    store: Store,
    baselines: Sequence[str] = ("none", "hierarchical"),
    seed: int = 0,
) -> dict[str, Any]:
    """hit@1 of one model under several prompts (not its own), also compared with each other query by query.

    `info` has `meta_task` and `distribution` of each dataset; all other prompts are compared with the `baselines`.
    Returns facts about each of `datasets`, and `prompts` and `differences` as of compare.
    """
    digests = item_digests(item for rows in datasets.values() for row in rows for item in (row.query, *row.candidates))
    records = {}
    for name in prompts:
        right = evaluate_mmeb(embedder.with_prompt(name), datasets, store, digests)
        records[name] = [{"right": write_answers(right)}]
    groups = group_names({name: info[name] for name in datasets})
    found = compare(records, groups, baselines, seed, against_all=True)
    described = describe_datasets(datasets, info)
    return {"datasets": described, "prompts": found["methods"], "differences": found["differences"]}
