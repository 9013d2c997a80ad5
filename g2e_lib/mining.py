"""From training subsets to clusters: embed, mine, keep, and check that clusters belong to their data and model.

Clusters are row numbers of a subset, so a file of them can be published without any data; it names the data and the
model they were mined from by checksum.
"""

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from g2e_lib.data.items import unique
from g2e_lib.data.mmeb import TRAIN_NAMES
from g2e_lib.data.subsets import Subset, subset_digest
from g2e_lib.embedder import Embedder, encode_cached
from g2e_lib.miners import Miner
from g2e_lib.project.config import fingerprint
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.published import reference
from g2e_lib.project.store import Store, read_json, write_text


def embed_subset(embedder: Embedder, subset: Subset, store: Store) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of a subset's queries, (N, D), and of its distinct targets, (M, D); each distinct item once."""
    queries, rows = unique(pair.query for pair in subset.pairs)
    query_embeddings = encode_cached(embedder, queries, "query", store)[rows]
    return query_embeddings, encode_cached(embedder, subset.targets, "target", store)


def labelled_subsets(facts: Mapping[str, Mapping[str, Any]] | None = None) -> set[str]:
    """The labelled classification sets, not sorted in query space by SaHa; `facts` are MMEB's own unless given."""
    if facts is None:
        facts = reference("mmeb_datasets").set_index("dataset").to_dict("index")
    names = {name for name, fact in facts.items() if fact["meta_task"] == "classification"}
    return names | {TRAIN_NAMES[name] for name in names if name in TRAIN_NAMES}


def mine_subset(
    embedder: Embedder, subset: Subset, miner: Miner, is_labelled: bool, store: Store, device: str = "cpu"
) -> dict[str, Any]:
    """Mine one subset under the embedder's prompt, searching on `device`; the store keeps embeddings and clusters.

    Returns:
        `clusters` (lists of rows, anchor first) and `seconds` of mining, without embedding.

    Raises:
        ValueError: no query has a negative.
    """
    queries, targets = embed_subset(embedder, subset, store)

    def compute() -> dict[str, Any]:
        started = time.perf_counter()
        clusters = miner.mine(queries, targets, subset.positive_of, is_labelled, device)
        if not clusters:
            raise ValueError(
                f"{miner.method} finds no negatives in subset {subset.name!r} ({len(subset.pairs)} pairs, "
                f"{len(subset.targets)} distinct targets): leave it out, or use more of it"
            )
        seconds = round(time.perf_counter() - started, 3)
        return {"clusters": [np.asarray(cluster).tolist() for cluster in clusters], "seconds": seconds}

    key = {
        "mined from": [embedder.key("query"), embedder.key("target"), subset_digest(subset)],
        "miner": asdict(miner),
        "is_labelled": is_labelled,
        "code": code_fingerprint("miners"),
    }
    return store.json(key, compute)


def describe_clusters(
    clusters: Sequence[Sequence[int]], query_embeddings: np.ndarray, subset: Subset, target_embeddings: np.ndarray
) -> dict[str, Any]:
    """What a miner's clusters of one subset are like, given embeddings of queries (N, D) and targets (M, D), float32.

    Returns:
        `clusters`, `rows` (distinct rows used), `rows_of` (all rows), `mean_size`; `hardness`, for each cluster the
        mean cosine of its anchor to its negatives; `positive`, the mean cosine of anchors to their positives; and
        `passes`, how often the encoder runs in an epoch over all clusters for each distinct pair in them.
    """
    hardness = []
    for anchor, *others in clusters:
        if others:
            negatives = target_embeddings[subset.positive_of[others]]
            hardness.append(float((negatives @ query_embeddings[anchor]).mean()))
    anchors = np.array([cluster[0] for cluster in clusters])
    positive = (query_embeddings[anchors] * target_embeddings[subset.positive_of[anchors]]).sum(1)
    total, distinct = sum(map(len, clusters)), len({row for cluster in clusters for row in cluster})
    return {
        "clusters": len(clusters),
        "rows": distinct,
        "rows_of": len(subset.pairs),
        "mean_size": total / len(clusters),
        "hardness": [round(cosine, 4) for cosine in hardness],
        "positive": float(positive.mean()),
        "passes": 2 * total / distinct,
    }


def save_clusters(
    path: Path, clusters: Mapping[str, list[list[int]]], subsets: Sequence[Subset], miner: Miner, embedder: Embedder
) -> None:
    """Write clusters, by subset name, as row numbers with the checksums that tie them to data and model."""
    document = {
        "miner": {name: value for name, value in asdict(miner).items() if value != ""},
        "model": embedder.identity,
        "prompt": embedder.prompt.name,
        "subsets": {
            subset.name: {
                "rows": len(subset.pairs),
                "data": subset_digest(subset),
                "checksum": fingerprint(clusters[subset.name]),
                "clusters": clusters[subset.name],
            }
            for subset in subsets
        },
    }
    text = json.dumps(document, indent=1)
    write_text(path, re.sub(r"\[\n[\d\s,]+\]", _on_one_line, text) + "\n")


def _on_one_line(cluster: re.Match) -> str:
    """So that a file of clusters can be read and compared."""
    return "[" + " ".join(cluster[0][1:-1].split()) + "]"


def load_clusters(
    path: Path, subsets: Sequence[Subset], model: str = "", prompt: str = ""
) -> dict[str, list[list[int]]]:
    """Read clusters, by subset name lists of rows, and check that they belong to these subsets and this model.

    `model` (its identity) and `prompt` (its name) are those they must have been mined with; "" allows any.

    Raises:
        ValueError: the file is missing or damaged, or was mined from other data or with another model.
    """
    document = read_json(path, made_by="notebook 02_mining")
    if not isinstance(document, dict) or not {"model", "prompt", "subsets"} <= set(document):
        raise ValueError(f"{path} is no file of clusters: give one that notebook 02_mining wrote")
    if prompt and document["prompt"] != prompt:
        raise ValueError(f"clusters {path} were mined under prompt {document['prompt']!r}, not {prompt!r}: mine again")
    if model and document["model"] != model:
        raise ValueError(
            f"clusters {path} were mined with another model ({document['model']}) than this one ({model}): mine again"
        )
    clusters = {}
    for subset in subsets:
        mined = document["subsets"].get(subset.name)
        if mined is None:
            raise ValueError(f"clusters {path} have no subset {subset.name!r}: mine it, or leave it out")
        if mined["data"] != subset_digest(subset):
            raise ValueError(
                f"clusters {path} were mined from other data of {subset.name!r} ({mined['rows']} rows, here "
                f"{len(subset.pairs)}): mine again"
            )
        if mined["checksum"] != fingerprint(mined["clusters"]):
            raise ValueError(f"clusters of {subset.name!r} in {path} do not match their checksum: mine again")
        clusters[subset.name] = mined["clusters"]
    return clusters
