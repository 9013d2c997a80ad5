"""What a result was made with: attached to every metrics file. Needs no torch."""

import os
import platform
import resource
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from g2e_lib import __version__
from g2e_lib.project.config import fingerprint, git_commit

LIBRARIES = ("torch", "transformers", "tokenizers", "peft", "accelerate", "datasets", "numpy", "pillow", "matplotlib")


def environment() -> dict[str, Any]:
    """Commit, versions and machine."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = version(library)
        except PackageNotFoundError:
            versions[library] = None
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
    try:
        LINUX_RESET.write_text("5", encoding="ascii")
    except OSError:
        return


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
    """What a result depends on, and when its making began.

    Attributes:
        settings: all parameters; their fingerprint identifies the run.
        model: identity of the checkpoint.
        data: identity of the data.
        seed: of everything random.
        device: "cpu" or a GPU's name.
        dtype: of the model.
    """

    settings: dict[str, Any]
    model: str
    data: str
    seed: int
    device: str
    dtype: str
    started: float = field(default_factory=time.perf_counter)

    def record(self, n: int) -> dict[str, Any]:
        """The record that goes with a metrics file.

        Args:
            n: queries, items or samples behind the result.
        """
        facts = {key: value for key, value in vars(self).items() if key != "started"}
        seconds = round(time.perf_counter() - self.started, 2)  # since the Run was made; short if read from a cache
        return {**environment(), **facts, "fingerprint": fingerprint(self.settings), "n": n, "seconds": seconds}
