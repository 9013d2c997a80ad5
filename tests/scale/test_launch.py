"""The files that start the work elsewhere: accelerate's configurations, SLURM's script, the mteb example."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from PIL import Image

from g2e_lib.experiments import benchmarks as worlds
from g2e_lib.glyphworld import benchmark
from g2e_lib.project import config
from g2e_lib.project.store import write_json

LAUNCH = config.ROOT / "launch"


@pytest.mark.parametrize("name", ["cpu", "one_machine", "fsdp"])
def test_accelerate_reads_them(name):
    settings = load_config_from_file(str(LAUNCH / f"{name}.yaml"))
    assert settings.num_processes == {"cpu": 2, "one_machine": 8, "fsdp": 8}[name]
    assert settings.mixed_precision == {"cpu": "no", "one_machine": "bf16", "fsdp": "bf16"}[name]


def test_accelerate_asks_its_processes_to_shard(monkeypatch):
    """The variables of a launch on 8 GPUs, which this machine need not have, and what accelerate makes of them."""
    command = ["--config_file", str(LAUNCH / "fsdp.yaml"), "-m", "g2e_lib.train", "config.yaml"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    variables = prepare_multi_gpu_env(arguments)
    assert variables["ACCELERATE_USE_FSDP"] == "true"
    assert variables["FSDP_CPU_RAM_EFFICIENT_LOADING"] == "false"
    for name, value in variables.items():
        if name.startswith("FSDP_"):
            monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    plugin.set_mixed_precision("bf16")
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward


def test_accelerate_launches_embedding(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE", tmp_path / "cache")
    size = benchmark.Size(queries=12, pairs=30, candidates=10, families=20)
    bench, _ = worlds.prepare_benchmark("glyphworld", size, worlds.Selection())
    write_json(tmp_path / "results" / "metrics" / "setup.json", {"benchmark": bench.settings})
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(LAUNCH / "cpu.yaml")]
    command += ["-m", "g2e_lib", "embed", "smoke", "--only", "01", "-p", "limit", "3", "-p", "datasets", "[Crop]"]
    places = {"G2E_CACHE": str(tmp_path / "cache"), "G2E_RESULTS": str(tmp_path / "results")}
    places |= {"PYTHONPATH": str(config.ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **places}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("01_zero_shot: 6 parts are in") == 1  # the first process speaks
    assert len(list((tmp_path / "cache" / "embeddings").glob("*.safetensors"))) >= 4


def test_the_slurm_script_parses_and_says_how_it_is_used():
    subprocess.run(["bash", "-n", LAUNCH / "slurm.sh"], check=True)
    done = subprocess.run(["bash", LAUNCH / "slurm.sh"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "usage: sbatch launch/slurm.sh PROFILE [CONFIG.yaml]" in done.stderr


def test_the_slurm_script_starts_one_accelerate_a_machine(tmp_path):
    """With stand-ins for SLURM's commands that show what they were given."""
    for name, body in {
        # So many that a reader which stops after the first line would break the pipe.
        "scontrol": "printf 'node-a\\n'; seq --format 'node-%.0f' 100000",
        "srun": 'shift; SLURM_NODEID=1 "$@"',
        "accelerate": 'echo "accelerate $*"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_NODELIST": "node-[a-b]", "SLURM_JOB_ID": "7", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "4"}
    done = subprocess.run(
        ["bash", LAUNCH / "slurm.sh", "qwen2-vl-2b", "run.yaml"],
        capture_output=True, text=True, check=True, env={"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm},
    )  # fmt: skip
    common = "accelerate launch --config_file launch/one_machine.yaml --num_machines 2 --machine_rank 1"
    common += " --num_processes 8 --main_process_ip node-a --main_process_port 10007"
    assert done.stdout.splitlines() == [
        f"{common} -m g2e_lib embed qwen2-vl-2b",
        f"{common} -m g2e_lib.train run.yaml",
    ]


def test_the_mteb_example_gives_batches_to_the_embedder(embedder):
    pytest.importorskip("mteb")
    from mteb.types import PromptType

    spec = importlib.util.spec_from_file_location("example", config.ROOT / "examples" / "evaluate_with_mteb.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    red = Image.new("RGB", (64, 64), "red")
    batches = [{"text": ["a", "b"], "id": [1, 2]}, {"image": [red]}, {"text": ["c"], "image": [red]}]
    items = ["a", "b", {"image": red}, {"text": "c", "image": red}]
    wrapper = example.Wrapper(embedder, "org/name")
    for prompt_type, role in ((PromptType.query, "query"), (PromptType.document, "target"), (None, "target")):
        found = wrapper.encode(batches, prompt_type=prompt_type)
        np.testing.assert_allclose(found, embedder.encode(items, role), atol=1e-5)
    assert wrapper.mteb_model_meta.modalities == ["text", "image"]
