"""Paths, profiles and fingerprints: the one place that knows where things are and what a run depends on.

Standard library and yaml only.
"""

import hashlib
import json
import os
import subprocess
from collections.abc import Collection, Mapping
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

# run_all.sh lets a run write to a staging folder, which replaces the run's own only if everything succeeds.
RESULTS_VARIABLE, FIGURES_VARIABLE = "G2E_RESULTS", "G2E_FIGURES"

# Short names of models that ship with the package.
EMBEDDED_MODELS = {"glyphworld-base": PACKAGE / "glyphworld" / "base_model"}


Known = Mapping[str, Collection[str]]  # by notebook the names of its settings


def notebook_stems() -> list[str]:
    """The numbered notebooks in order, by file stem."""
    return sorted(path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def profile_names() -> list[str]:
    """The profiles that exist, in alphabetical order."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load_profile(name: str, known: Known | None = None) -> dict[str, dict[str, Any]]:
    """Read a profile: for each notebook it runs (file stem) the settings that it chooses.

    A profile's file may say `extends:` (whose values lie below its own), `common:` (settings of every notebook that
    knows them), `notebooks:` (which ones it runs, else all) and, under a notebook's name, what is that one's alone.

    Without `known`, common settings go to every notebook.

    Raises:
        ValueError: there is no such profile, or it names a notebook or a setting that does not exist.
    """
    settings, stems = _resolve(name, known, ())
    return {stem: settings[stem] for stem in stems}


def _resolve(name: str, known: Known | None, extending: tuple[str, ...]) -> tuple[dict[str, dict], list[str]]:
    """A profile's settings of every notebook, and the notebooks it runs."""
    if name in extending:
        raise ValueError(f"profile {name!r} extends itself through {', '.join(extending)}: break the circle")
    content = _read_profile(name)
    all_stems = notebook_stems()
    parent, common = content.pop("extends", None), content.pop("common", None) or {}
    below, stems = _resolve(parent, known, (*extending, name)) if parent else ({}, all_stems)
    stems = content.pop("notebooks", stems)
    if unknown := {*content, *stems} - {*all_stems}:
        raise ValueError(f"profile {name!r} names {sorted(unknown)}, which are no notebooks: there are {all_stems}")
    settings = {}
    for stem in all_stems:
        fitting = {key: value for key, value in common.items() if known is None or key in known.get(stem, ())}
        settings[stem] = below.get(stem, {}) | fitting | (content.get(stem) or {})
    if known is not None:
        _check_names(name, common, settings, known)
    return settings, stems


def _read_profile(name: str) -> dict[str, Any]:
    path = PROFILES / f"{name}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown profile {name!r}: choose one of {', '.join(profile_names())}")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _check_names(profile: str, common: Mapping[str, Any], settings: Mapping[str, Mapping], known: Known) -> None:
    """Refuse a misspelt setting, which would change nothing without a word."""
    wrong = {f"common: {key}" for key in common if not any(key in names for names in known.values())}
    wrong |= {f"{stem}: {key}" for stem, values in settings.items() for key in values if key not in known.get(stem, ())}
    if wrong:
        raise ValueError(f"profile {profile!r} has settings that no notebook knows: {', '.join(sorted(wrong))}")


def results_folder(run: str) -> Path:
    """Where the results of a run go."""
    return Path(os.environ.get(RESULTS_VARIABLE) or RESULTS / run)


def figures_folder(run: str) -> Path:
    """Where the figures of a run go."""
    return Path(os.environ.get(FIGURES_VARIABLE) or FIGURES / run)


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
