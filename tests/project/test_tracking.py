"""What trackers are told about a run: every step once, under the same names, from the main process."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from accelerate import tracking as trackers
from accelerate.utils import LoggerType
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from g2e_lib.project.tracking import read_log
from g2e_lib.train import Trainer, train
from g2e_lib.train_config import TrainConfig


@pytest.fixture
def config(small_build, tmp_path):
    return TrainConfig(
        folder=str(tmp_path / "run"), data=str(small_build / "train"), subsets=("CaptionT2I",), steps=5, save_every=2
    )


@pytest.fixture
def killed_and_resumed(monkeypatch):
    """Trains with steps that compute nothing, dies in the fourth one, and goes on from the second."""

    def run(config):
        killed = []

        def step(_, number, rows):
            if number == 3 and not killed:
                killed.append(True)
                raise KeyboardInterrupt
            return {"step": number + 1, "loss": 1 / len(rows)}

        monkeypatch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train(config)
        train(config)
        assert [record["step"] for record in read_log(Path(config.folder))] == [1, 2, 3, 4, 5]

    return run


@pytest.fixture
def wandb(monkeypatch):
    """Stands for wandb: notes what it is told, and like it ignores steps that a run has already."""
    told = SimpleNamespace(starts=[], steps={}, finished=0)

    class Run:
        def __init__(self, name):
            self.steps = told.steps.setdefault(name, {})

        def log(self, values, step):
            self.steps.setdefault(step, values)

        def finish(self):
            told.finished += 1

    def init(**arguments):
        told.starts.append(arguments)
        return Run(arguments["id"])

    module = ModuleType("wandb")
    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setattr(trackers, "_available_trackers", [LoggerType.WANDB])
    return told


def test_tensorboard_shows_every_step_once(config, killed_and_resumed):
    killed_and_resumed(config)
    board = EventAccumulator(str(Path(config.folder) / "tensorboard")).Reload()
    assert set(board.Tags()["scalars"]) == {"loss", "pairs_per_second", "peak_memory_mib", "seconds"}
    assert [event.step for event in board.Scalars("loss")] == [1, 2, 3, 4, 5]


def test_wandb_gets_one_run_however_often_it_is_resumed(config, killed_and_resumed, wandb, tmp_path):
    config = replace(config, report_to="wandb")
    killed_and_resumed(config)
    first, again = wandb.starts
    assert first == again
    assert (first["project"], first["resume"], first["dir"]) == ("g2e_lib", "allow", config.folder)
    assert first["config"]["steps"] == 5
    assert str(tmp_path) not in json.dumps(first["config"])
    assert wandb.finished == 2
    (steps,) = wandb.steps.values()
    assert list(steps) == [1, 2, 3, 4, 5]
    assert set(steps[1]) == {"loss", "pairs_per_second", "peak_memory_mib", "seconds"}
    assert not (Path(config.folder) / "tensorboard").exists()
    killed_and_resumed(replace(config, folder=str(tmp_path / "other")))
    assert len(wandb.steps) == 2


def test_nobody_is_told(config, killed_and_resumed):
    killed_and_resumed(replace(config, report_to="none"))
    assert {path.name for path in Path(config.folder).iterdir()} == {
        "adapter", "config.json", "log.jsonl", "state.safetensors"
    }  # fmt: skip


def test_who_is_told_may_change_before_a_run_is_resumed(config, monkeypatch):
    def dying_step(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", dying_step)
        train(replace(config, report_to="none"))
    monkeypatch.setattr(Trainer, "step", lambda _, number, rows: {"step": number + 1, "loss": 1 / len(rows)})
    train(config)
    assert (Path(config.folder) / "tensorboard").is_dir()


def test_a_tracker_that_is_not_installed_ends_before_anything_is_loaded(config, monkeypatch):
    monkeypatch.setattr(trackers, "_available_trackers", [LoggerType.TENSORBOARD])
    monkeypatch.setattr(Trainer, "__init__", None)  # would fail if it were called
    with pytest.raises(ValueError, match="wandb is not installed: pip install wandb, or set report_to"):
        train(replace(config, report_to="wandb"))
