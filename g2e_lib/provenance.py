"""What a result was made with: attached to every metrics file. Needs no torch."""

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from g2e_lib import __version__
from g2e_lib.config import fingerprint, git_commit

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


def provenance(
    settings: dict[str, Any], model: str, data: str, seed: int, device: str, dtype: str, n: int, seconds: float
) -> dict[str, Any]:
    """The record that goes with a metrics file.

    Args:
        settings: all parameters of the run; their fingerprint identifies it.
        model: fingerprint of the checkpoint.
        data: fingerprint of the data.
        seed: of everything random.
        device: "cpu" or the GPU's name.
        dtype: of the model.
        n: queries, items or samples behind the result.
        seconds: wall-clock time; of a cached result the time to read it.
    """
    return {
        **environment(),
        "settings": settings,
        "fingerprint": fingerprint(settings),
        "model": model,
        "data": data,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "n": n,
        "seconds": round(seconds, 2),
    }
