"""Any number of processes leave the same embeddings and clusters in the store."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from g2e_lib import embedder as embedding
from g2e_lib.data.subsets import load_subsets
from g2e_lib.embedder import Embedder
from g2e_lib.glyphworld import benchmark
from g2e_lib.miners import Miner
from g2e_lib.project import config
from g2e_lib.project.store import Store
from g2e_lib.scale import parallel

OTHER = "import sys, pathlib, test_parallel; print(*test_parallel.work(*map(pathlib.Path, sys.argv[1:])))"


def work(root, folder):
    """One process's share of some embedding and mining: shards and jobs of all, and how many entries it has made."""
    threads, shard = torch.get_num_threads(), embedding.SHARD
    torch.set_num_threads(1)
    embedding.SHARD = 7
    parallel.join_processes()
    try:
        embedder = Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32")
        rows, _ = benchmark.load(root, ["ObjectName", "CaptionT2I"], 6)
        queries = [row.query for some in rows.values() for row in some]
        targets = [item for some in rows.values() for row in some for item in row.candidates[:4]]
        store = Store(folder)
        shards = parallel.embed_all(embedder, {"query": queries, "target": targets}, store)
        subsets = load_subsets(root / "train", ["ObjectName", "CaptionT2I"], limit=20)
        jobs = parallel.mine_all(embedder, subsets, [Miner("topk", 3), Miner("saha", 3)], {"ObjectName"}, store)
        return shards, jobs, len(store._written)
    finally:
        parallel.leave_processes()
        torch.set_num_threads(threads)
        embedding.SHARD = shard


def work_with_another(root, folder, monkeypatch):
    """What this process, the first of two, has done, and what the other one has."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    paths = {"PYTHONPATH": f"{config.ROOT}:{Path(__file__).parent}", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    network = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    other = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(root), str(folder)],
        env={**os.environ, **paths, **network, "RANK": "1", "LOCAL_RANK": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for name, value in {**network, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    done = work(root, folder)
    out, err = other.communicate(timeout=300)
    assert other.returncode == 0, err
    return [done, tuple(map(int, out.splitlines()[-1].split()))]


def contents(folder):
    arrays = {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}
    clusters = {p.name: json.loads(p.read_text())["value"]["clusters"] for p in folder.glob("*.json")}
    return arrays, clusters


def test_two_processes_make_what_one_makes(small_build, tmp_path, monkeypatch):
    shards, jobs, made = work(small_build, tmp_path / "alone")
    two = work_with_another(small_build, tmp_path / "two", monkeypatch)
    assert [done[:2] for done in two] == [(shards, jobs)] * 2
    assert sum(done[2] for done in two) == made  # nothing is made twice
    assert min(done[2] for done in two) >= made // 2 - 2  # and neither process is idle
    arrays, clusters = contents(tmp_path / "two")
    assert contents(tmp_path / "alone") == (arrays, clusters)
    assert len(clusters) == jobs == 4
