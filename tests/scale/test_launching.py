"""Training that a notebook starts in processes of its own."""

import sys
from dataclasses import replace

import pytest
import torch
from conftest import SMALL
from safetensors.torch import load_file

from g2e_lib.experiments.benchmarks import GlyphBenchmark
from g2e_lib.experiments.settings import TrainingSettings
from g2e_lib.experiments.study import Method, Study
from g2e_lib.project import config
from g2e_lib.project.results import Results
from g2e_lib.project.tracking import read_log
from g2e_lib.scale import launching
from g2e_lib.scale.launching import train_launched
from g2e_lib.train_config import TrainConfig, read_config

FEW = TrainingSettings(steps=2, pairs_per_step=6, chunk_size=4, warmup_steps=0, subsets=["ObjectName", "Crop"])
METHOD = Method("in_batch")


@pytest.fixture(autouse=True)
def _one_thread():
    """As launched processes have: sums in another order would be compared with theirs."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def study(small_build, tmp_path, monkeypatch):
    """A study with a cache of its own; `launch` and other settings of training may be given."""
    bench = GlyphBenchmark(SMALL, small_build)

    def make(name, launch="", **settings):
        monkeypatch.setattr(config, "CACHE", tmp_path / name)
        return Study(Results("mini"), bench, replace(FEW, launch=launch, **settings))

    return make


def test_two_processes_train_what_a_notebook_would(study, tmp_path, capfd):
    adapters = [load_file(study("here").train(METHOD) / "adapter_model.safetensors")]
    capfd.readouterr()
    adapters += [load_file(study("there", "launch/cpu.yaml").train(METHOD) / "adapter_model.safetensors")]
    assert "train: 100%" in capfd.readouterr().err  # its bar is shown here
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[0].items():
        torch.testing.assert_close(adapters[1][name], value, atol=1e-5, rtol=0)
    assert [p.name for p in (tmp_path / "here" / "runs").iterdir()] == [
        p.name for p in (tmp_path / "there" / "runs").iterdir() if p.is_dir()
    ]  # how many processes have trained is nothing that a run is remembered by
    (settings,) = (tmp_path / "there" / "runs").glob("*.yaml")
    assert read_config(settings).report_to == "none"
    assert read_config(settings).folder == str(settings.with_suffix(""))


def test_a_study_reports_to_whom_it_is_told(study, tmp_path):
    quiet, loud = study("a"), study("b", report_to="tensorboard")
    folders = [one.train(METHOD).parent for one in (quiet, loud)]
    assert folders[0].name == folders[1].name
    assert [(folder / "tensorboard").exists() for folder in folders] == [False, True]
    assert [len(read_log(folder)) for folder in folders] == [2, 2]


def test_a_configuration_that_does_not_exist(study):
    with pytest.raises(ValueError, match=r"launch 'none.yaml' is no file .*: choose launch/cpu.yaml, launch/fsdp.yaml"):
        study("here", "none.yaml")


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Puts a script in the place of Python, which accelerate would be started with."""

    def put(script):
        path = tmp_path / "python"
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))
        return TrainConfig(folder=str(tmp_path / "run"), data="data", subsets=("Crop",))

    return put


def test_a_failure_says_why(stand_in, capsys):
    bars = r"train:   0%%|  |\rtrain:  50%%|# |"
    config = stand_in(
        rf"printf '{bars}train: lower the größe\n\rtrain:  50%%|# |\nTraceback\n  Failed\n\n' >&2; exit 3"
    )
    with pytest.raises(RuntimeError, match=r"^training under launch/cpu.yaml failed: lower the größe$"):
        train_launched(config, "launch/cpu.yaml")
    assert "train:   0%|  |\rtrain:  50%|# |train" in capsys.readouterr().err
    for script, reason in (("echo 'no GPU' >&2; exit 1", "no GPU"), ("exit 4", "it ended with status 4")):
        with pytest.raises(RuntimeError, match=f"failed: {reason}$"):
            train_launched(stand_in(script), "launch/cpu.yaml")


def test_an_interruption_lets_accelerate_end_its_processes(stand_in, monkeypatch, tmp_path):
    config = stand_in(f"trap 'touch {tmp_path}/ended; exit' TERM; echo up >&2; while true; do sleep 0.1; done")

    def interrupted(process):
        assert process.stderr.readline() == b"up\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(launching, "_pass_on", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_launched(replace(config, steps=1), "launch/cpu.yaml")
    assert (tmp_path / "ended").exists()


def test_as_many_processes_as_there_are_gpus(monkeypatch):
    monkeypatch.setattr(launching.torch.cuda, "device_count", lambda: 3)
    found = {path.name: launching.processes_here(path) for path in (config.ROOT / "launch").glob("*.yaml")}
    assert found == {
        "cpu.yaml": [],
        "fsdp.yaml": ["--num_processes", "3"],
        "one_machine.yaml": ["--num_processes", "3"],
    }
