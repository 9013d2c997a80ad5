"""Any number of processes leave the same embeddings and clusters in the store."""

import json
import os
import socket
import subprocess
import sys

import pytest

from g2e_lib.project import config

WORKER = """
import sys
from pathlib import Path
from g2e_lib import embedder as embedding
from g2e_lib.embedder import Embedder
from g2e_lib.glyphworld import benchmark
from g2e_lib.data.subsets import load_subsets
from g2e_lib.miners import Miner
from g2e_lib.scale import parallel
from g2e_lib.project.store import Store
embedding.SHARD = 7
root, folder = map(Path, sys.argv[1:])
parallel.join_processes()
embedder = Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32")
rows, _ = benchmark.load(root, ["ObjectName", "CaptionT2I"], 6)
queries = [row.query for some in rows.values() for row in some]
targets = [item for some in rows.values() for row in some for item in row.candidates[:4]]
store = Store(folder)
shards = parallel.embed_all(embedder, {"query": queries, "target": targets}, store)
subsets = load_subsets(root / "train", ["ObjectName", "CaptionT2I"], limit=20)
jobs = parallel.mine_all(embedder, subsets, [Miner("topk", 3), Miner("saha", 3)], {"ObjectName"}, store)
made = len(store._written)
parallel.leave_processes()
print(shards, jobs, made)
"""


def run_processes(count, root, folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": str(config.ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(root), str(folder)],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    outputs = [process.communicate(timeout=300) for process in processes]
    assert all(process.returncode == 0 for process in processes), outputs
    return [tuple(map(int, out.splitlines()[-1].split())) for out, _ in outputs]


def contents(folder):
    arrays = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    clusters = {p.name: json.loads(p.read_text())["value"]["clusters"] for p in folder.glob("*.json")}
    return arrays, clusters


@pytest.fixture(scope="module")
def alone(small_build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, run_processes(1, small_build, folder)


def test_two_processes_make_what_one_makes(alone, small_build, tmp_path):
    folder, ((shards, jobs, made),) = alone
    two = run_processes(2, small_build, tmp_path)
    assert [one[:2] for one in two] == [(shards, jobs)] * 2
    assert sum(one[2] for one in two) == made  # nothing is made twice
    assert min(one[2] for one in two) >= made // 2 - 2  # and neither process is idle
    arrays, clusters = contents(tmp_path)
    assert contents(folder) == (arrays, clusters)
    assert len(clusters) == jobs == 4
