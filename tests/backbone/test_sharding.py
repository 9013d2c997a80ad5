"""Sharded weights (FSDP): two processes train what two with whole weights train, and each holds half."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from g2e_lib import train as training
from g2e_lib.backbone.sharding import wants_sharding
from g2e_lib.project import config as places
from g2e_lib.train_config import TrainConfig

WAYS = {"whole": "false", "sharded": "true"}


class NotedTrainer(training.Trainer):
    """Notes of every weight of the layers whether it trains, whether it is sharded, and its rows in all and here."""

    def step(self, number, rows):
        layers = self.embedder.model.model.language_model.layers
        self.noted = {
            name: (w.requires_grad, isinstance(w, DTensor), len(w), len(w.to_local() if isinstance(w, DTensor) else w))
            for name, w in layers.named_parameters()
        }
        path = Path(self.config.folder) / f"held{self.accelerator.process_index}.json"
        path.write_text(json.dumps(self.noted))
        return super().step(number, rows)


def work(settings, folder, start):
    """What each process does: a new adapter, and a DoRA that goes on from another, with and without sharding."""
    training.Trainer = NotedTrainer
    common = TrainConfig(**settings)
    for name, changes in {"new": {}, "dora": {"use_dora": True, "start": start}}.items():
        for way, wanted in WAYS.items():
            os.environ["ACCELERATE_USE_FSDP"] = wanted
            training.train(replace(common, folder=f"{folder}/{name} {way}", **changes))


@pytest.fixture(scope="module")
def runs(small_build, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharding")
    common = TrainConfig(
        folder="", data=str(small_build / "train"), subsets=("ObjectName", "CaptionT2I"), steps=2, pairs_per_step=4,
        chunk_size=2, warmup_steps=0, lora_rank=4, report_to="none", limit=12,
    )  # fmt: skip
    start = training.train(replace(common, folder=str(folder / "start"), use_dora=True, steps=1))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": f"{places.ROOT}:{places.ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    # The last is accelerate's default; no process may be left without weights by it.
    environment |= {"ACCELERATE_USE_CPU": "true", "FSDP_VERSION": "2", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    code = (
        f"from backbone import test_sharding; test_sharding.work({asdict(common)!r}, {str(folder)!r}, {str(start)!r})"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:  # one may wait for the other without end
            process.kill()
    assert all(process.returncode == 0 for process in processes), outputs
    return folder


@pytest.mark.parametrize("name", ["new", "dora"])
def test_sharded_weights_train_the_same_adapter(runs, name):
    whole, sharded = (load_file(runs / f"{name} {way}" / "adapter" / "adapter_model.safetensors") for way in WAYS)
    assert whole.keys() == sharded.keys()
    assert any("magnitude" in weight for weight in whole) == (name == "dora")
    for weight, value in whole.items():
        assert value.abs().max() > 0
        torch.testing.assert_close(sharded[weight], value, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["new", "dora"])
def test_a_process_holds_half_of_the_frozen_weights_and_all_that_train(runs, name):
    for rank in range(2):
        weights = json.loads((runs / f"{name} sharded" / f"held{rank}.json").read_text())
        assert {trains for trains, *_ in weights.values()} == {True, False}
        for weight, (trains, is_sharded, rows, here) in weights.items():
            assert is_sharded is not trains, weight
            assert here == (rows if trains else rows // 2), weight


def test_who_shards(monkeypatch):
    monkeypatch.delenv("ACCELERATE_USE_FSDP", raising=False)
    alone, four = SimpleNamespace(num_processes=1), SimpleNamespace(num_processes=4)
    assert not wants_sharding(four, 10)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "true")
    assert not wants_sharding(alone, 10)
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "true"
    assert wants_sharding(four, 12)
    assert os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    with pytest.raises(ValueError, match="pairs_per_step 10 is no multiple of the 4 processes, .* set it to 8"):
        wants_sharding(four, 10)
