"""The true false-negative rate of a miner: GlyphWorld knows when a mined negative is in truth a right answer."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from g2e_lib.data.subsets import Subset, subset_digest
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.annotated import AnnotatedJudge
from g2e_lib.evaluation.statistics import difference_of_ratios, estimate_ratio
from g2e_lib.glyphworld.benchmark import TRAIN_FOLDER, TRUTH
from g2e_lib.glyphworld.truth import Judge
from g2e_lib.miners import Miner
from g2e_lib.mining import describe_clusters, embed_subset, labelled_subsets, mine_subset
from g2e_lib.project.config import code_fingerprint
from g2e_lib.project.pictures import save_picture
from g2e_lib.project.store import Store
from g2e_lib.saha import explain_cluster

CODE = (
    "experiments/negatives.py",
    "glyphworld/truth.py",
    "glyphworld/world/scenes.py",
)  # source files that decide a judgement


CLUSTERS_JUDGED = 150  # of a subset, drawn at random: every pair within each is judged


def judge_of(root: Path, subset: Subset) -> Judge | AnnotatedJudge:
    """The truth about a training subset: GlyphWorld's own, or what the annotation of real data says."""
    has_truth = (root / TRAIN_FOLDER / subset.name / TRUTH).is_file()
    return Judge(root, subset.name) if has_truth else AnnotatedJudge(subset)


def count_false_negatives(
    judge: Judge | AnnotatedJudge, clusters: Sequence[Sequence[int]], positive_of: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Judge the negatives of mined clusters.

    Args:
        judge: of the subset.
        clusters: rows, anchor first.
        positive_of: (N,) int, the target of each row.
        seed: which clusters are judged whole.

    Returns:
        For every cluster `anchor` = [false negatives, negatives] of its anchor; for up to CLUSTERS_JUDGED of them
        `trained`, the same over all ordered pairs of a cluster, as training uses them; and `masked`, the same without
        targets identical to the query's positive.
    """
    anchor = [[sum(judge.is_right(c[0], other) for other in c[1:]), len(c) - 1] for c in clusters]
    chosen = random.Random(f"judged {seed}").sample(range(len(clusters)), min(CLUSTERS_JUDGED, len(clusters)))
    trained, masked = [], []
    for number in sorted(chosen):
        pairs = [(a, b) for a in clusters[number] for b in clusters[number] if a != b]
        kept = [(a, b) for a, b in pairs if positive_of[a] != positive_of[b]]
        trained.append([sum(judge.is_right(a, b) for a, b in pairs), len(pairs)])
        masked.append([sum(judge.is_right(a, b) for a, b in kept), len(kept)])
    return {"anchor": anchor, "trained": trained, "masked": masked}


REPEATED, CAPTIONS = "repeated answers", "captions"


def compare_miners(
    root: Path,
    embedder: Embedder,
    subsets: Sequence[Subset],
    facts: Mapping[str, Mapping[str, Any]],
    miners: Sequence[Miner],
    store: Store,
) -> dict[str, Any]:
    """Mine all subsets with every miner, and judge the negatives.

    Args:
        root: folder of the build the subsets come from.
        embedder: with its prompt.
        subsets: training subsets of MMEB-mini.
        facts: `meta_task` of each subset.
        miners: `saha` among them; the others are compared with it.
        store: keeps embeddings, clusters and judgements.

    Returns:
        `groups`: names of subsets by group; `miners`: for each method statistics, estimates by subset and by group;
        `differences`: by rival and group, how many points fewer false negatives SaHa has over whole clusters;
        `clusters`: SaHa's, by subset.

    Raises:
        ValueError: `saha` is not among the miners, or finds no cluster in a subset.
    """
    if "saha" not in [miner.method for miner in miners]:
        raise ValueError("miners must hold 'saha', which the others are compared with")
    labelled = labelled_subsets(facts)
    repeated = [s.name for s in subsets if facts[s.name]["meta_task"] in ("classification", "vqa")]
    captions = [s.name for s in subsets if s.name.startswith("Caption") or s.name.endswith(("_i2t", "_t2i"))]
    others = [s.name for s in subsets if s.name not in (*repeated, *captions)]
    groups = {REPEATED: repeated, CAPTIONS: captions, "other": others, "all": [s.name for s in subsets]}
    groups = {name: members for name, members in groups.items() if members}
    counts: dict[str, dict[str, dict]] = {}
    result: dict[str, Any] = {"groups": groups, "miners": {}, "clusters": {}}
    judges = {subset.name: judge_of(root, subset) for subset in subsets}
    for miner in tqdm(miners, desc="judge", unit="miner"):
        parts, counts[miner.method] = {}, {}
        for subset in subsets:
            mined = mine_subset(embedder, subset, miner, subset.name in labelled, store, embedder.device.type)
            queries, targets = embed_subset(embedder, subset, store)
            described = describe_clusters(mined["clusters"], queries, subset, targets)
            parts[subset.name] = {**described, "targets": len(subset.targets), "seconds": mined["seconds"]}
            truth = judges[subset.name].identity
            key = {"judged": mined["clusters"], "subset": subset_digest(subset), "truth": truth}
            key["code"] = code_fingerprint(CODE)
            counts[miner.method][subset.name] = store.json(
                key, lambda s=subset, m=mined: count_false_negatives(judges[s.name], m["clusters"], s.positive_of)
            )
            if miner.method == "saha":
                result["clusters"][subset.name] = mined["clusters"]
        result["miners"][miner.method] = _summarize_miner(parts, counts[miner.method], groups)
    ours = counts["saha"]
    result["differences"] = {
        rival: {
            group: vars(
                difference_of_ratios({n: theirs[n]["trained"] for n in names}, {n: ours[n]["trained"] for n in names})
            )
            for group, names in groups.items()
        }
        for rival, theirs in counts.items()
        if rival != "saha"
    }
    return result


def _summarize_miner(
    parts: Mapping[str, dict[str, Any]], counts: Mapping[str, dict[str, Any]], groups: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    kinds = ("anchor", "trained", "masked")
    hardness = [np.mean(part["hardness"]) for part in parts.values()]
    sums = {key: sum(part[key] for part in parts.values()) for key in ("clusters", "rows", "rows_of", "seconds")}
    pairs = sum(part["mean_size"] * part["clusters"] for part in parts.values())
    return {
        "subsets": {
            name: {**part, "hardness": float(np.mean(part["hardness"]))}
            | {kind: vars(estimate_ratio({name: counts[name][kind]})) for kind in kinds}
            for name, part in parts.items()
        },
        "groups": {
            group: {kind: vars(estimate_ratio({name: counts[name][kind] for name in names})) for kind in kinds}
            for group, names in groups.items()
        },
        **sums,
        "hardness": float(np.mean(hardness)),
        "positive": float(np.mean([part["positive"] for part in parts.values()])),
        "mean_size": pairs / sums["clusters"],
        "passes": 2 * pairs / sums["rows"],
    }


def explain_anchor(
    root: Path, embedder: Embedder, subset: Subset, row: int, miner: Miner, store: Store, results: Path
) -> dict[str, Any]:
    """How one query gets its cluster, with the truth: what the step-by-step figure draws.

    Args:
        root: folder of the build.
        embedder: with its prompt.
        subset: the pairs.
        row: the anchor.
        miner: its top_k and pool_mult are used.
        store: keeps embeddings.
        results: folder of a profile's results; pictures are kept there.

    Returns:
        `anchor` with `text` and `image`, and `steps`: for each retrieved target a record of Step with texts, images
        and `is_right`.
    """
    judge, pairs = judge_of(root, subset), subset.pairs
    queries, targets = embed_subset(embedder, subset, store)
    steps = []
    first_row = {target: r for r, target in reversed(list(enumerate(subset.positive_of.tolist())))}
    for step in explain_cluster(queries, targets, subset.positive_of, row, miner.top_k, miner.pool_mult):
        target = subset.targets[step.target]
        record = {
            **vars(step),
            "target_text": target.text,
            "target_image": save_picture(target.image, results),
            "owner_text": pairs[step.owner].query.text if step.owner >= 0 else "",
            "is_right": judge.is_right(row, first_row[step.target]),
        }
        steps.append(record)
    query = pairs[row].query
    return {"anchor": {"text": query.text, "image": save_picture(query.image, results)}, "steps": steps}
