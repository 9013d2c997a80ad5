"""The numbered notebooks: which there are, what can be set in them, and what a command line or profile sets."""

import ast
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from g2e_lib.project import config

RUN_PARAMETER = "run"  # every notebook's first: the name of the results folder, which the runner sets
Settings = dict[str, dict[str, Any]]  # by notebook (file stem) and name


class UsageError(ValueError):
    """A command line that cannot be carried out; the message says what would be right."""


def notebook_paths() -> list[Path]:
    """The numbered notebooks in order."""
    return [config.NOTEBOOKS / f"{stem}.ipynb" for stem in config.notebook_stems()]


def _cells(notebook: Path) -> list[dict[str, Any]]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def title(notebook: Path) -> str:
    """A notebook's question."""
    return "".join(_cells(notebook)[0]["source"]).splitlines()[0].lstrip("# ")


def cell_parameters(notebook: Path) -> dict[str, Any]:
    """The names and default values in a notebook's parameters cell, in order.

    Read without nbformat and papermill, whose import would take longer than `--list` may.

    Raises:
        ValueError: the notebook has not exactly one such cell.
    """
    cells = [cell for cell in _cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"notebook {notebook.name} has {len(cells)} cells tagged 'parameters': it must have one")
    assignments = ast.parse("".join(cells[0]["source"])).body
    return {node.targets[0].id: ast.literal_eval(node.value) for node in assignments}


def known_settings(defaults: Mapping[str, Mapping[str, Any]]) -> Settings:
    """Everything that can be set: what a parameters cell shows, then what only the experiments' `defaults` have."""
    known = {path.stem: {**cell_parameters(path), **defaults.get(path.stem, {})} for path in notebook_paths()}
    return {stem: {n: v for n, v in values.items() if n != RUN_PARAMETER} for stem, values in known.items()}


def select_notebooks(first: str | None, only: str | None, profile: str) -> list[str]:
    """The notebooks of a profile from number `first` on, or `only` one, such as "01", by file stem.

    Raises:
        ValueError: there is no such profile, or it has no such number.
    """
    stems = list(config.load_profile(profile))
    numbers = [stem[:2] for stem in stems]
    for number in (first, only):
        if number is not None and number.zfill(2) not in numbers:
            raise UsageError(f"profile {profile} has no notebook {number}: choose one of {', '.join(numbers)}")
    if only is not None:
        return [stems[numbers.index(only.zfill(2))]]
    return stems[numbers.index(first.zfill(2)) :] if first is not None else stems


def parse_value(name: str, text: str, default: Any) -> Any:  # noqa: ANN401
    """Read a setting's value from the command line.

    Raises:
        UsageError: it has not the type of its default.

    >>> parse_value("seed", "3", 0), parse_value("rate", "2", 0.5), parse_value("model", "7", "a")
    (3, 2.0, '7')
    """
    if isinstance(default, str):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(default, float) and not isinstance(value, bool):
        with suppress(TypeError, ValueError):
            value = float(value)  # also of an int, or of "1e-3", which YAML takes for text
    if type(value) is not type(default):
        raise UsageError(f"parameter {name} takes a {type(default).__name__} such as {default!r}, not {text!r}")
    return value


def parse_parameters(pairs: Sequence[Sequence[str]], known: Settings) -> Settings:
    """What each notebook gets of `-p NAME VALUE` pairs: every one that has such a setting; `known` are their defaults.

    Raises:
        UsageError: no notebook has such a setting, or the value's type is wrong.
    """
    chosen: Settings = {stem: {} for stem in known}
    for name, text in pairs:
        takers = [stem for stem, values in known.items() if name in values]
        if not takers:
            there = "; ".join(f"{stem}: {', '.join(values)}" for stem, values in known.items())
            raise UsageError(f"unknown parameter {name!r}. The notebooks to run have: {there}")
        for stem in takers:
            chosen[stem][name] = parse_value(name, text, known[stem][name])
    return chosen


def list_text(known: Settings) -> str:
    """What `--list` prints: notebooks with their questions and settings, then the profiles."""
    lines = []
    for path in notebook_paths():
        shown = [name for name in cell_parameters(path) if name != RUN_PARAMETER]
        lines.append(f"{path.stem}  {title(path)}")
        lines += [f"    -p {name} {known[path.stem][name]!r}" for name in shown]
        further = [f"{name} {value!r}" for name, value in known[path.stem].items() if name not in shown]
        lines += [f"    also: {', '.join(further)}"] if further else []
    return "\n".join([*lines, "", "profiles: " + ", ".join(config.profile_names())])
