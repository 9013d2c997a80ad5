"""The truth about negatives: how many of those a miner, or UniME's filter, chooses are in truth right answers.

GlyphWorld knows when a negative is a right answer. Of real data only the annotation is known, a lower bound.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import torch
from tqdm.auto import tqdm

from g2e_lib.data.items import item_digests, unique
from g2e_lib.data.subsets import Subset, subset_digest
from g2e_lib.embedder import Embedder, encode_cached
from g2e_lib.evaluation.statistics import difference_of_ratios, estimate_ratio
from g2e_lib.miners import Miner
from g2e_lib.mining import describe_clusters, embed_subset, labelled_subsets, mine_subset
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.pictures import save_picture
from g2e_lib.project.store import Store
from g2e_lib.prompts import Role
from g2e_lib.saha import explain_cluster
from g2e_lib.train import number_targets
from g2e_lib.unime import choose_negatives

CLUSTERS_JUDGED = 150  # of a subset, drawn at random: every pair within each is judged
NO_FILTER = 2.0  # as UniME's beta: no two cosines differ by more
EDGES = np.linspace(-1, 1, 101).round(2)  # of cosines
KINDS = ("positive", "hard negative", "false negative")
COUNTED = ("anchor", "trained", "masked")
REPEATED, CAPTIONS = "repeated answers", "captions"

Row = tuple[int, int]  # number of a subset, row in it
Clusters = Sequence[Sequence[int]]  # rows, anchor first


class Judge(Protocol):
    """Tells for one training subset whether a target is a right answer to a query."""

    identity: str  # of what it knows and how it judges

    def is_right(self, query: int, other: int, of: Self | None = None) -> bool:
        """Whether the positive of row `other`, of the subset that `of` judges (None: this), is right for `query`."""


class AnnotatedJudge:
    """Tells whether a target is annotated as a right answer to a query anywhere in a training subset.

    That is, whether some row pairs the two, by content: labels and answers that repeat, and images with several
    captions, are seen; right answers that nobody wrote down are not.
    """

    def __init__(self, subset: Subset) -> None:
        digests = item_digests(item for pair in subset.pairs for item in (pair.query, pair.target))
        self._queries = [digests[pair.query] for pair in subset.pairs]
        self._targets = [digests[pair.target] for pair in subset.pairs]
        self._right = set(zip(self._queries, self._targets, strict=True))
        self.identity = f"annotated {subset_digest(subset)}"

    def is_right(self, query: int, other: int, of: "AnnotatedJudge | None" = None) -> bool:
        """As Judge.is_right; nothing is annotated across subsets."""
        return of in (None, self) and (self._queries[query], self._targets[other]) in self._right


# --- mined clusters ------------------------------------------------------------------------------------------------


def _judged_whole(clusters: Clusters, purpose: str, seed: int) -> list[Sequence[int]]:
    """Up to CLUSTERS_JUDGED clusters, drawn at random."""
    chosen = random.Random(f"{purpose} {seed}").sample(range(len(clusters)), min(CLUSTERS_JUDGED, len(clusters)))
    return [clusters[number] for number in sorted(chosen)]


def count_false_negatives(
    judge: Judge, clusters: Clusters, positive_of: np.ndarray, seed: int = 0
) -> dict[str, list[list[int]]]:
    """Judge the negatives of a subset's clusters; `positive_of` (N,) int is the target of each row.

    Returns for every cluster `anchor` = [false negatives, negatives] of its anchor; for up to CLUSTERS_JUDGED of them
    `trained`, the same over all ordered pairs of a cluster, as training uses them; and `masked`, the same without
    targets identical to the query's positive.
    """

    def judged(pairs: Sequence[tuple[int, int]]) -> list[int]:
        return [sum(judge.is_right(query, other) for query, other in pairs), len(pairs)]

    found = {"anchor": [judged([(anchor, other) for other in others]) for anchor, *others in clusters]}
    whole = [[(a, b) for a in rows for b in rows if a != b] for rows in _judged_whole(clusters, "judged", seed)]
    found["trained"] = [judged(pairs) for pairs in whole]
    found["masked"] = [judged([(a, b) for a, b in pairs if positive_of[a] != positive_of[b]]) for pairs in whole]
    return found


def count_similarities(
    judge: Judge, clusters: Clusters, positive_of: np.ndarray, queries: np.ndarray, targets: np.ndarray, seed: int = 0
) -> dict[str, list[int]]:
    """Sort anchors' similarities of up to CLUSTERS_JUDGED clusters, from float32 unit rows, into bins between EDGES.

    Returns for each of KINDS the counts: the anchor's positive, mined targets that are wrong answers to it, and mined
    targets that are in truth right ones.
    """
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for rows in _judged_whole(clusters, "histograms", seed):
        for row in rows:
            kind = KINDS[0] if row == rows[0] else KINDS[2] if judge.is_right(rows[0], row) else KINDS[1]
            found[kind].append(float(targets[positive_of[row]] @ queries[rows[0]]))
    return {kind: np.histogram(np.clip(values, -1, 1), EDGES)[0].tolist() for kind, values in found.items()}


def _judge_miner(
    embedder: Embedder, subset: Subset, miner: Miner, is_labelled: bool, judge: Judge, store: Store
) -> tuple[dict[str, Any], Clusters]:
    """What a miner's clusters of one subset are like and how many of their negatives are false; the clusters."""
    mined = mine_subset(embedder, subset, miner, is_labelled, store, embedder.device.type)
    clusters, (queries, targets) = mined["clusters"], embed_subset(embedder, subset, store)

    def count() -> dict[str, Any]:
        similarities = count_similarities(judge, clusters, subset.positive_of, queries, targets)
        return {**count_false_negatives(judge, clusters, subset.positive_of), "similarities": similarities}

    key = {"judged": clusters, "subset": subset_digest(subset), "truth": judge.identity}
    key |= {
        "embedded": [embedder.key("query"), embedder.key("target")],
        "code": code_fingerprint("evaluation.negatives"),
    }
    described = describe_clusters(clusters, queries, subset, targets)
    facts = {**described, "targets": len(subset.targets), "seconds": mined["seconds"]}
    return {"facts": facts, **store.json(key, count)}, clusters


def compare_miners(
    embedder: Embedder,
    subsets: Sequence[Subset],
    facts: Mapping[str, Mapping[str, Any]],
    judges: Mapping[str, Judge],
    miners: Sequence[Miner],
    store: Store,
) -> dict[str, Any]:
    """Mine all subsets with every miner, `saha` among them, and judge the negatives.

    `facts` has `meta_task` of each subset, and `judges` who judges it.

    Returns:
        `groups`: names of subsets by group; `miners`: for each method statistics, estimates by subset and by group;
            `differences`: by rival and group, how many points fewer false negatives SaHa has over whole clusters;
            `clusters`: SaHa's, by subset; `similarities`: `edges` of bins and, by method, what count_similarities
            returns, over all subsets.

    Raises:
        ValueError: `saha` is not among the miners, or finds no cluster in a subset.
    """
    if "saha" not in [miner.method for miner in miners]:
        raise ValueError("miners must hold 'saha', which the others are compared with")
    labelled, groups = labelled_subsets(facts), _groups_of_subsets(subsets, facts)
    judged: dict[str, dict[str, Any]] = {}
    clusters: dict[str, Clusters] = {}
    for miner in tqdm(miners, desc="judge", unit="miner"):
        judged[miner.method] = {}
        for subset in subsets:
            name = subset.name
            found = _judge_miner(embedder, subset, miner, name in labelled, judges[name], store)
            judged[miner.method][name], mined = found
            if miner.method == "saha":
                clusters[name] = mined

    def units(method: str, names: Sequence[str], kind: str = "trained") -> dict[str, Any]:
        return {name: judged[method][name][kind] for name in names}

    return {
        "groups": groups,
        "miners": {method: _summarize_miner(some, groups) for method, some in judged.items()},
        "clusters": clusters,
        "differences": {
            rival: {
                group: vars(difference_of_ratios(units(rival, names), units("saha", names)))
                for group, names in groups.items()
            }
            for rival in judged
            if rival != "saha"
        },
        "similarities": {"edges": EDGES.tolist(), "miners": {m: _added(some) for m, some in judged.items()}},
    }


def _groups_of_subsets(subsets: Sequence[Subset], facts: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    names = [subset.name for subset in subsets]
    repeated = [name for name in names if facts[name]["meta_task"] in ("classification", "vqa")]
    captions = [name for name in names if name.startswith("Caption") or name.endswith(("_i2t", "_t2i"))]
    others = [name for name in names if name not in (*repeated, *captions)]
    groups = {REPEATED: repeated, CAPTIONS: captions, "other": others, "all": names}
    return {group: members for group, members in groups.items() if members}


def _added(judged: Mapping[str, Mapping[str, Any]]) -> dict[str, list[int]]:
    """Histograms of all subsets together."""
    return {kind: np.sum([found["similarities"][kind] for found in judged.values()], axis=0).tolist() for kind in KINDS}


def _summarize_miner(judged: Mapping[str, Mapping[str, Any]], groups: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A miner's statistics and rates, from what _judge_miner returned for each subset."""

    def rates(names: Sequence[str]) -> dict[str, Any]:
        return {kind: vars(estimate_ratio({name: judged[name][kind] for name in names})) for kind in COUNTED}

    parts = {name: {**found["facts"]} for name, found in judged.items()}
    for part in parts.values():
        part["hardness"] = float(np.mean(part["hardness"]))
    sums = {key: sum(part[key] for part in parts.values()) for key in ("clusters", "rows", "rows_of", "seconds")}
    pairs = sum(part["mean_size"] * part["clusters"] for part in parts.values())
    return {
        "subsets": {name: part | rates([name]) for name, part in parts.items()},
        "groups": {group: rates(names) for group, names in groups.items()},
        **sums,
        "hardness": float(np.mean([part["hardness"] for part in parts.values()])),
        "positive": float(np.mean([part["positive"] for part in parts.values()])),
        "mean_size": pairs / sums["clusters"],
        "passes": 2 * pairs / sums["rows"],
    }


def explain_anchor(
    embedder: Embedder, subset: Subset, judge: Judge, row: int, top_k: int, pool_mult: int, store: Store, results: Path
) -> dict[str, Any]:
    """How the query of `row` gets its cluster, with the truth; pictures are kept in the folder `results`.

    Returns `anchor` with `text` and `image`, and `steps`, every target's Step with texts, images and `is_right`.
    """
    queries, targets = embed_subset(embedder, subset, store)
    first_row = {target: r for r, target in reversed(list(enumerate(subset.positive_of.tolist())))}
    steps = []
    for step in explain_cluster(queries, targets, subset.positive_of, row, top_k, pool_mult):
        target = subset.targets[step.target]
        shown = {"target_text": target.text, "target_image": save_picture(target.image, results)}
        owner = subset.pairs[step.owner].query.text if step.owner >= 0 else ""
        is_right = judge.is_right(row, first_row[step.target])
        steps.append({**vars(step), **shown, "owner_text": owner, "is_right": is_right})
    query = subset.pairs[row].query
    return {"anchor": {"text": query.text, "image": save_picture(query.image, results)}, "steps": steps}


# --- UniME's filter ------------------------------------------------------------------------------------------------


def margin_name(margin: float) -> str:
    """What a value of beta is called in tables.

    >>> margin_name(0.1), margin_name(2)
    ('beta = 0.1', 'no filter')
    """
    return "no filter" if margin >= NO_FILTER else f"beta = {margin}"


def right_answers(judges: Sequence[Judge], batch: Sequence[Row]) -> np.ndarray:
    """For each query of a batch which of the batch's positives are right answers to it: (B, B) bool."""
    return np.array([[judges[i].is_right(row, other, judges[j]) for j, other in batch] for i, row in batch])


def judge_filter(
    embedder: Embedder,
    subsets: Sequence[Subset],
    judges: Sequence[Judge],
    margins: Sequence[float],
    top_k: int,
    batches: tuple[int, int],
    store: Store,
    seed: int = 0,
) -> dict[str, Any]:
    """Draw batches as training does, choose every query's hard negatives as UniME does, and judge them.

    The embedder is at the point of training that is asked about. `margins` are beta, the last one is what the others
    are compared with; `top_k` is K; `batches` are how many, and pairs in each.

    Returns:
        `rates`: by margin the share of chosen negatives that are right answers, in percent, with an interval over
            queries; `differences`: rates against the last margin, in points; `dropped`: by margin the share of the
            batch's right answers that the filter takes away, empty where the batches have none. Right answers
            identical to the positive are never chosen and not counted.
    """
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
    for batch, some, queries, targets in zip(drawn, pairs, embed("query"), embed("target"), strict=True):
        similarity = torch.from_numpy(queries @ targets.T)
        numbers = torch.tensor([ids[pair.target] for pair in some])
        is_right = right_answers(judges, batch) & (numbers[:, None] != numbers).numpy()
        for margin in margins:
            is_chosen = choose_negatives(similarity, numbers, margin, top_k).numpy()
            chosen[margin] += np.stack(((is_chosen & is_right).sum(1), is_chosen.sum(1)), 1).tolist()
            is_near = (similarity > similarity.diagonal()[:, None] + margin).numpy()
            dropped[margin] += np.stack(((is_near & is_right).sum(1), is_right.sum(1)), 1).tolist()
    return _summarize_filter(chosen, dropped)


def _summarize_filter(
    chosen: Mapping[float, list[list[int]]], dropped: Mapping[float, list[list[int]]]
) -> dict[str, Any]:
    """What judge_filter returns, from [right answers, all] of every query by margin."""
    *others, last = chosen
    has_right = any(whole for _, whole in dropped[last])

    def against_last(margin: float) -> dict[str, Any]:
        return vars(difference_of_ratios({"all": chosen[margin]}, {"all": chosen[last]}))

    def rates(counts: Mapping[float, list[list[int]]]) -> dict[str, Any]:
        return {margin_name(margin): vars(estimate_ratio({"all": units})) for margin, units in counts.items()}

    differences = {margin_name(margin): against_last(margin) for margin in others}
    return {"rates": rates(chosen), "dropped": rates(dropped) if has_right else {}, "differences": differences}
