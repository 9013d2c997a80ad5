"""Training on several GPUs from a notebook: the same training loop, in processes that accelerate starts."""

import codecs
import gc
import re
import subprocess
import sys
from pathlib import Path

import torch
import yaml

from g2e_lib.project import config as places
from g2e_lib.train_config import TrainConfig, write_config


def launch_file(launch: str) -> Path:
    """The file of an accelerate configuration (absolute, or in the project's root); ValueError if there is none."""
    path = places.ROOT / launch
    if not path.is_file():
        known = ", ".join(f"launch/{file.name}" for file in sorted((places.ROOT / "launch").glob("*.yaml")))
        others = "write one with `accelerate config --config_file`, or set launch to '' to train in this process"
        raise ValueError(f"launch {launch!r} is no file of an accelerate configuration: choose {known}, {others}")
    return path


def release_memory() -> None:
    """Give back what a training or an embedder held on the GPU: a trainer and its loss refer to each other."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def processes_here(file: Path) -> list[str]:
    """Options by which a configuration of one machine with GPUs starts as many processes as GPUs are here."""
    settings = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    is_for_gpus = not settings.get("use_cpu") and settings.get("num_machines", 1) == 1
    gpus = torch.cuda.device_count() if is_for_gpus else 0
    return ["--num_processes", str(gpus)] if gpus else []


def train_launched(config: TrainConfig, launch: str) -> None:
    """Do what `train` does, in processes of their own; their settings stay beside the run's folder.

    Raises:
        ValueError: there is no such accelerate configuration (see launch_file).
        RuntimeError: training failed; the message is the last thing it said.
    """
    settings, file = Path(f"{config.folder}.yaml"), launch_file(launch)
    write_config(config, settings)
    release_memory()  # the processes train on this one's GPU as well
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    command += [*processes_here(file), "-m", "g2e_lib.train", str(settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        try:
            said = _pass_on(process)
        except BaseException:  # such as a notebook's interruption; accelerate, asked to end, ends its processes too
            process.terminate()
            raise
    if process.returncode:
        reasons = re.findall(r"train: (?! *\d+%)(.+)", said)  # not the bar; accelerate's own remarks come after them
        words = [line.strip() for line in reasons or said.split("\n") if any(map(str.isalpha, line))]
        reason = words[-1] if words else f"it ended with status {process.returncode}"
        raise RuntimeError(f"training under {launch} failed: {reason}")


def _pass_on(process: subprocess.Popen) -> str:
    """Show what a process says, as it says it, progress bars included; returns the end of it."""
    decoder, said = codecs.getincrementaldecoder("utf-8")("replace"), ""
    while piece := process.stderr.read1():
        text = decoder.decode(piece)
        sys.stderr.write(text)
        sys.stderr.flush()
        said = (said + text)[-20_000:]
    return said
