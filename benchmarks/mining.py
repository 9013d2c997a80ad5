"""How fast is SaHa's miner, against its row-at-a-time definition and against the floor of its searches?

Run with `python benchmarks/mining.py` (needs faiss: `pip install -e ".[bench]"`); writes benchmarks/mining.json.
The row-at-a-time definition does what one would write first: faiss's flat index, one query a search. Both are timed
in one run on the same arrays, and their clusters are compared; memory is measured in processes of their own.
"""

import argparse
import json
import multiprocessing
import time
from pathlib import Path

import faiss
import numpy as np

from g2e_lib.project.provenance import environment, memory_mib, processor_name, reset_peak_memory
from g2e_lib.saha import POOL_MULT, TOP_K, mine_clusters

CASES = {  # rows, dimensions, unique targets
    "a: 50 000 x 1 536, a tenth repeated": (50_000, 1536, 45_000),
    "b: 20 000 x 256, 1 000 labels": (20_000, 256, 1_000),
    "growth: 25 000 x 1 536": (25_000, 1536, 22_500),
    "growth: 100 000 x 1 536": (100_000, 1536, 90_000),
}


def unit_rows(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Random directions: float32."""
    values = rng.standard_normal(shape, dtype=np.float32)
    values /= np.sqrt(np.einsum("ij,ij->i", values, values))[:, None]
    return values


def make_pairs(rows: int, dimension: int, targets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random embeddings; every target has an owner, the others are spread evenly."""
    rng = np.random.default_rng(0)
    positive_of = np.concatenate((np.arange(targets), np.arange(rows - targets) % targets))
    return unit_rows(rng, (rows, dimension)), unit_rows(rng, (targets, dimension)), rng.permutation(positive_of)


def row_at_a_time(q: np.ndarray, t: np.ndarray, positive_of: np.ndarray) -> list[np.ndarray]:
    """SaHa as one would write it first."""
    index = faiss.IndexFlatIP(t.shape[1])
    index.add(t)
    owners = [[] for _ in t]
    for row, target in enumerate(positive_of):
        owners[target].append(row)
    used, reused, clusters = set(), set(), []
    for phase in (1, 2):
        limit, blocked = TOP_K * POOL_MULT * phase, used if phase == 1 else reused
        for row in range(len(q)):
            if row in used:
                continue
            _, found = index.search(q[row : row + 1], 2 * TOP_K * POOL_MULT)
            chosen = []
            for target in found[0]:
                free = [o for o in owners[target] if o not in blocked] if target not in (-1, positive_of[row]) else []
                if free:
                    chosen.append(free[int(np.argmax(q[free] @ q[row]))] if len(free) > 1 else free[0])
                if len(chosen) == limit:
                    break
            if chosen:
                order = np.argsort(q[chosen] @ q[row], kind="stable")[:TOP_K]
                kept = [chosen[i] for i in order]
                clusters.append(np.array([row, *kept]))
                used |= {row, *kept}
                reused |= set(kept) if phase == 2 else set()
    return clusters


def peak_above_inputs(case: tuple[int, int, int]) -> float:
    """MiB that mining adds to what is resident with the inputs; run in a process of its own, on Linux."""
    pairs = make_pairs(*case)
    mine_clusters(*(embeddings[:50] for embeddings in pairs[:2]), np.arange(50))  # code and libraries are loaded
    reset_peak_memory()
    before = memory_mib("VmRSS")
    mine_clusters(*pairs)
    return round(memory_mib() - before, 1)


def floor_seconds(case: tuple[int, int, int], clusters: int) -> float:
    """The matrix products of one search a cluster, at this machine's rate for large ones."""
    rng = np.random.default_rng(1)
    left, right = unit_rows(rng, (512, case[1])), unit_rows(rng, (8192, case[1]))
    left @ right.T
    started = time.perf_counter()
    for _ in range(5):
        left @ right.T
    rate = 5 * 2 * 512 * 8192 * case[1] / (time.perf_counter() - started)
    return 2 * clusters * case[1] * case[2] / rate


def measure(case: tuple[int, int, int], repeats: int, is_compared: bool) -> dict:
    """Times and memory of one case."""
    pairs, ours, theirs = make_pairs(*case), [], []
    for _ in range(repeats):
        started = time.perf_counter()
        clusters = mine_clusters(*pairs)
        ours.append(time.perf_counter() - started)
        if is_compared:
            started = time.perf_counter()
            expected = row_at_a_time(*pairs)
            theirs.append(time.perf_counter() - started)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        memory = pool.apply(peak_above_inputs, (case,))
    record = {
        "clusters": len(clusters),
        "seconds": [round(s, 2) for s in ours],
        "floor_seconds": round(floor_seconds(case, len(clusters)), 2),
        "peak_above_inputs_mib": memory,
    }
    if is_compared:
        same = sum(np.array_equal(a, b) for a, b in zip(clusters, expected, strict=False))
        record["row_at_a_time_seconds"] = [round(s, 2) for s in theirs]
        record["times_faster_median"] = round(float(np.median(np.array(theirs) / ours)), 2)
        record["same_clusters"] = f"{same} of {len(expected)}"
    return record


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="cases whose name begins like this")
    options = parser.parse_args()
    cases = {}
    for name, case in CASES.items():
        if name.startswith(options.only):
            is_compared = not name.startswith("growth")
            cases[name] = measure(case, options.repeats if is_compared else 1, is_compared)
            print(name, json.dumps(cases[name]), flush=True)
    record = {"top_k": TOP_K, "pool_mult": POOL_MULT, "cases": cases, "cpu": processor_name(), **environment()}
    if not options.only:
        Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
