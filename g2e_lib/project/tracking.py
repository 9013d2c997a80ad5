"""What is written down while a run trains: JSON lines, always, and one of accelerate's trackers, if one is wanted.

A resumed run continues both without repetitions. None of it decides what training computes.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from g2e_lib.project.store import write_json, write_text

if TYPE_CHECKING:
    from accelerate import Accelerator

CONFIG, LOG, RUN_ID = "config.json", "log.jsonl", "wandb_id.txt"
TENSORBOARD, WANDB, NONE = "tensorboard", "wandb", "none"
PROJECT = {TENSORBOARD: "tensorboard", WANDB: "g2e_lib", NONE: ""}  # for TensorBoard a folder in the run's own


def check_tracker(name: str) -> None:
    """Refuse a tracker, a value of TrainConfig.report_to, that cannot be used.

    Raises:
        ValueError: it is not installed.
    """
    from accelerate.tracking import get_available_trackers  # here, so that whoever reads logs needs no torch

    if name != NONE and name not in map(str, get_available_trackers()):
        raise ValueError(
            f"report_to is {name!r}, but {name} is not installed: pip install {name}, or set report_to to "
            f"{TENSORBOARD if name == WANDB else NONE!r}"
        )


def claim_folder(folder: Path, settings: Mapping[str, Any], is_main: bool) -> None:
    """Note whose run a folder holds.

    Raises:
        ValueError: it holds another one; the message names a setting that differs.
    """
    path, settings = folder / CONFIG, json.loads(json.dumps(settings))
    if not path.exists():
        if is_main:
            write_json(path, settings)
        return
    found = json.loads(path.read_text(encoding="utf-8"))
    if different := [name for name in settings if found.get(name) != settings[name]]:
        name = different[0]
        raise ValueError(
            f"{folder} holds a run with {name} {found.get(name)!r} instead of {settings[name]!r}: choose another "
            "folder, or delete it"
        )


class Log:
    """The records of a run in progress; only the main process writes.

    Args:
        folder: the run's.
        done: steps done before; records of later ones are written again.
        accelerator: made for the tracker, with the run's folder as its logging folder.
        report_to: the tracker, "tensorboard", "wandb" or "none".
        settings: for trackers that show them.
    """

    def __init__(
        self, folder: Path, done: int, accelerator: "Accelerator", report_to: str, settings: Mapping[str, Any]
    ) -> None:
        self.path, self.accelerator = folder / LOG, accelerator
        if not accelerator.is_main_process:
            return
        kept = [record for record in read_log(folder) if record["step"] <= done]
        write_text(self.path, "".join(json.dumps(record) + "\n" for record in kept))
        arguments: dict[str, Any] = {}
        if report_to == TENSORBOARD:
            arguments = {"purge_step": done + 1}
        elif report_to == WANDB:  # which ignores steps that it has: those after the last save, which are the same again
            names = {"id": _run_id(folder), "name": folder.name, "dir": str(folder)}
            arguments = {**names, "resume": "allow", "config": dict(settings)}
        accelerator.init_trackers(PROJECT[report_to], init_kwargs={report_to: arguments})

    def write(self, record: dict[str, float]) -> None:
        """Add one step."""
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        self.accelerator.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        for tracker in self.accelerator.trackers:  # accelerate's end_training would also part the processes
            tracker.finish()


def _run_id(folder: Path) -> str:
    """What wandb knows the run by; it lies in the run's folder, so a run begun again there is another one."""
    path = folder / RUN_ID
    if not path.exists():
        write_text(path, uuid4().hex)
    return path.read_text(encoding="utf-8")


def read_log(folder: Path) -> list[dict[str, float]]:
    """The records of a run so far; a line that was cut off by a kill is left out."""
    path, records = folder / LOG, []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
