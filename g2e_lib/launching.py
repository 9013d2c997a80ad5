"""Training on several GPUs from a notebook: the same training loop, in processes that accelerate starts."""

import codecs
import gc
import re
import subprocess
import sys
from pathlib import Path

import torch

from g2e_lib import config as places
from g2e_lib.train_config import TrainConfig, write_config


def launch_file(launch: str) -> Path:
    """The file of an accelerate configuration.

    Args:
        launch: its path, absolute or relative to the project's root.

    Raises:
        ValueError: there is none.
    """
    path = places.ROOT / launch
    if not path.is_file():
        known = ", ".join(f"launch/{one.name}" for one in sorted((places.ROOT / "launch").glob("*.yaml")))
        raise ValueError(
            f"launch {launch!r} is no file of an accelerate configuration: choose {known}, write one with `accelerate "
            "config --config_file`, or set launch to '' to train in this process"
        )
    return path


def train_launched(config: TrainConfig, launch: str) -> None:
    """Do what `train` does, in processes of their own; their settings stay beside the run's folder.

    Args:
        config: of the run.
        launch: see launch_file.

    Raises:
        ValueError: there is no such accelerate configuration.
        RuntimeError: training failed; the message is the last thing it said.
    """
    settings = Path(f"{config.folder}.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(launch_file(launch))]
    write_config(config, settings)
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # the processes train on this one's GPU as well
    command += ["-m", "g2e_lib.train", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            said = _pass_on(process)
        except BaseException:  # such as a notebook's interruption; accelerate, asked to end, ends its processes too
            process.terminate()
            raise
    if process.returncode:
        reasons = re.findall(r"train: (?! *\d+%)(.+)", said)  # not the bar; accelerate's own remarks come after them
        lines = reasons or said.split("\n")
        last = next((line for line in reversed(lines) if line.strip()), f"it ended with status {process.returncode}")
        raise RuntimeError(f"training under {launch} failed: {last.strip()}")


def _pass_on(process: subprocess.Popen) -> str:
    """Show what a process says, as it says it, progress bars included; returns the end of it."""
    decoder, said = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while piece := process.stderr.read1():
        text = decoder.decode(piece)
        sys.stderr.write(text)
        sys.stderr.flush()
        said = (said + text)[-20_000:]
    return said
