"""Paths, profiles and fingerprints: the one place that knows where things are and what a run depends on.

Standard library and yaml only.
"""

import hashlib
import json
import os
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
NOTEBOOKS = ROOT / "notebooks"
PROFILES = NOTEBOOKS / "profiles"
RESULTS = ROOT / "results"
FIGURES = ROOT / "figures"
BENCHMARKS = ROOT / "benchmarks"  # scripts that measure speed and memory, and what they measured
# Data sets, embeddings and other things that can be made again; G2E_CACHE moves it to a larger disk.
CACHE = Path(os.environ.get("G2E_CACHE", ROOT / "cache")).resolve()
DATA = CACHE / "mmeb"  # the papers' own data, where a profile asks for them

# run_all.sh lets a run write to a staging folder, which replaces the profile's own only if everything succeeds.
RESULTS_VARIABLE, FIGURES_VARIABLE = "G2E_RESULTS", "G2E_FIGURES"

# Short names of models that ship with the package.
EMBEDDED_MODELS = {"glyphworld-base": PACKAGE / "glyphworld" / "base_model"}


def profile_names() -> list[str]:
    """The profiles that exist, in alphabetical order."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str) -> dict[str, dict[str, Any]]:
    """Read a profile: for each notebook (file stem) the parameters that differ from the notebook's defaults.

    Raises:
        ValueError: there is no such profile.
    """
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(profile_names())}")
    return {notebook: dict(values or {}) for notebook, values in yaml.safe_load(path.read_text()).items()}


def results_folder(profile: str) -> Path:
    """Where the results of a profile go."""
    return Path(os.environ.get(RESULTS_VARIABLE, RESULTS / profile))


def figures_folder(profile: str) -> Path:
    """Where the figures of a profile go."""
    return Path(os.environ.get(FIGURES_VARIABLE, FIGURES / profile))


def resolve_model(name_or_path: str | Path) -> str:
    """The folder of an embedded model, or the given path or hub id unchanged.

    >>> resolve_model("Qwen/Qwen2-VL-2B-Instruct")
    'Qwen/Qwen2-VL-2B-Instruct'
    """
    return str(EMBEDDED_MODELS.get(str(name_or_path), name_or_path))


def fingerprint(value: Any) -> str:  # noqa: ANN401 (anything that JSON can write)
    """A short hash of a JSON-like value; equal values give equal fingerprints on every machine.

    >>> fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content; a file of the Hugging Face cache is named by its digest already."""
    blob = path.resolve() if path.is_symlink() else path
    if blob is not path and blob.parent.name == "blobs":
        return blob.name
    facts = path.stat()
    return _digest(os.fspath(path), facts.st_size, facts.st_mtime_ns, facts.st_ino)


@cache  # notebook 02 asks for every image's dozens of times
def _digest(path: str, *_: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_commit() -> str:
    """The commit of the working copy, with "+" when tracked source files differ from it; "unknown" outside git.

    Results and figures are left out of the comparison: a run rewrites them.
    """
    sources = (":!results", ":!figures", ":!README.md")
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        diff = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", ".", *sources], cwd=ROOT, check=False)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if diff.returncode else "")
