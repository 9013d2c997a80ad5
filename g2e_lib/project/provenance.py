"""What a result was made with: attached to every metrics file. Needs no torch."""

import os
import platform
import resource
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from g2e_lib import __version__
from g2e_lib.project.config import fingerprint, git_commit

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "numpy", "pillow", "matplotlib")


def environment() -> dict[str, Any]:
    """Commit, versions and machine."""
    versions = dict.fromkeys(LIBRARIES)
    for library in LIBRARIES:
        with suppress(PackageNotFoundError):
            versions[library] = version(library)
    return {
        "g2e_lib": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "libraries": versions,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    }


def processor_name() -> str:
    """What the CPU calls itself, if the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


LINUX_STATUS, LINUX_RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def reset_peak_memory() -> None:
    """Let the peak start again from what is resident now, where the system can (Linux)."""
    with suppress(OSError):
        LINUX_RESET.write_text("5", encoding="ascii")


def memory_mib(field: str = "VmHWM") -> float:
    """MiB of main memory: "VmHWM", the peak since the last reset, or "VmRSS", what is resident now.

    Where the system does not tell, both are the peak since the process began.
    """
    if LINUX_STATUS.exists():
        lines = LINUX_STATUS.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


@dataclass
class Run:
    """What a result depends on, and when its making began."""

    settings: dict[str, Any]  # all parameters; their fingerprint identifies the run
    model: str  # identity of the checkpoint
    data: str  # identity of the data
    seed: int
    device: str  # "cpu" or a GPU's name
    dtype: str  # of the model
    started: float = field(default_factory=time.perf_counter)

    def record(self, n: int) -> dict[str, Any]:
        """The record that goes with a metrics file; n queries, items or samples are behind the result."""
        facts = {key: value for key, value in vars(self).items() if key != "started"}
        seconds = round(time.perf_counter() - self.started, 2)  # since the Run was made; short if read from a cache
        return {**environment(), **facts, "fingerprint": fingerprint(self.settings), "n": n, "seconds": seconds}


def is_interactive() -> bool:
    """Whether somebody sits in front of this kernel: a Jupyter server started it."""
    return "JPY_SESSION_NAME" in os.environ
