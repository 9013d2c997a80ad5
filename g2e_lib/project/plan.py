"""What one command will run: under which name, with which settings, and what it takes over from an earlier run."""

import argparse
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from g2e_lib import __version__
from g2e_lib.project import config
from g2e_lib.project.config import fingerprint
from g2e_lib.project.notebooks import Settings, UsageError, parse_parameters, select_notebooks
from g2e_lib.project.results import REFERENCE, Results

LONGEST_NAME = 60
# Which notebooks read what another one wrote, by number; the last one draws everything again.
READERS = {"00": ["01", "02", "03", "04", "05", "06"], "05": ["06"]}
DRAWING = "07"


@dataclass(frozen=True)
class Plan:
    """What will run."""

    name: str  # of the results folder
    profile: str
    base: str  # name of the run that a variant is compared with and takes over from; "" for none
    start: str  # name of the run whose results are copied first; "" to begin with nothing
    notebooks: list[str]  # to execute, by file stem, in order
    settings: Settings  # all of all the profile's notebooks
    chosen: Settings  # those that profile and command line choose
    is_fresh: bool  # ignore caches

    @property
    def draws_all(self) -> bool:
        """Whether tables and figures of the copied results are drawn again, so that none of the old may stay."""
        return any(stem.startswith(DRAWING) for stem in self.notebooks)


def make_plan(request: argparse.Namespace, known: Settings) -> Plan:
    """Decide what a command line (see command.parser) runs; `known` is everything that can be set, with its default.

    Raises:
        ValueError: it cannot be carried out.
    """
    selected = select_notebooks(request.first, request.only, request.profile)
    overrides = parse_parameters(request.parameters, {stem: known[stem] for stem in selected})
    profile = config.load_profile(request.profile, known)
    chosen = {stem: values | overrides.get(stem, {}) for stem, values in profile.items()}
    settings = {stem: known[stem] | values for stem, values in chosen.items()}
    name, is_part = _run_name(request), len(selected) < len(chosen)
    goes_on = _exists(name, settings, selected) and is_part
    base = find_base(request.profile) if name != request.profile or (is_part and not goes_on) else ""
    start = name if goes_on else base
    if is_part and start:
        recorded = Results(start).record
        kept = {stem: values for stem, values in recorded["settings"].items() if stem in chosen}
        settings |= {stem: values for stem, values in kept.items() if stem not in selected}
    elif start and not request.is_fresh:
        selected = _needed(Results(start).record, settings)
    if goes_on:
        base = Results(name).record["base"]
    return Plan(name, request.profile, base, start, selected, settings, chosen, request.is_fresh)


def _run_name(request: argparse.Namespace) -> str:
    """The name of a run: given, or made of its parameters, or the profile's."""
    if not request.name:
        return variant_name(request.profile, request.parameters) if request.parameters else request.profile
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", request.name) or len(request.name) > LONGEST_NAME:
        raise UsageError(f"{request.name!r} is no name for a run: take up to {LONGEST_NAME} letters, digits, . _ and -")
    if request.name == REFERENCE or request.name.startswith("compare-"):
        raise UsageError(f"the name {request.name!r} is used by run_all.sh itself: take another one")
    if request.name in config.profile_names() and (request.name != request.profile or request.parameters):
        raise UsageError(f"{request.name!r} is the name of a profile: give a variant another name")
    return request.name


def variant_name(profile: str, parameters: Iterable[Sequence[str]]) -> str:
    """A name for a run with other parameters.

    >>> variant_name("mini", [("top_k", "7"), ("miners", "[saha, topk]")])
    'mini-top_k-7-miners-saha-topk'
    """
    words = [word for pair in parameters for word in pair]
    name = "-".join([profile, *(re.sub(r"[^A-Za-z0-9._]+", "-", word).strip("-") for word in words)])
    if len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 9].rstrip('-')}-{fingerprint(words)[:8]}"
    return name


def _exists(name: str, settings: Settings, selected: list[str]) -> bool:
    """Whether results of this name exist, made with the same settings where notebooks would run again.

    Raises:
        UsageError: they were made with others, or by something else.
    """
    results = Results(name)
    if not results.folder.is_dir():
        return False
    record, there = results.record, f"results/{name} exists already"
    if not record:
        raise UsageError(f"{there}, and no run.json says what made it: remove it, or give another name with --as")
    if record["g2e_lib"] != __version__:
        raise UsageError(f"{there}, of version {record['g2e_lib']}: remove it, or give another name with --as")
    for stem in selected:
        theirs = record["settings"].get(stem, {})
        if stem in record["notebooks"] and theirs != settings[stem]:
            changed = sorted(key for key in {**theirs, **settings[stem]} if theirs.get(key) != settings[stem].get(key))
            raise UsageError(
                f"{there} with other settings ({stem}: {', '.join(changed)}): give another name with --as, "
                f"or remove the folder"
            )
    return True


def find_base(profile: str) -> str:
    """The run that a variant of a profile starts from: your own, else the published one; "" where neither is usable."""
    for name in (profile, f"{REFERENCE}/{profile}"):
        if Results(name).record.get("g2e_lib") == __version__:
            return name
    return ""


def _needed(record: dict[str, Any], settings: Settings) -> list[str]:
    """The notebooks that run with `settings` when the results of the run with this record are taken over."""
    changed = [s for s in settings if s not in record["notebooks"] or record["settings"].get(s) != settings[s]]
    numbers = {stem[:2] for stem in changed} | {DRAWING}
    for number, readers in READERS.items():
        numbers |= {*readers} if number in numbers else set()
    return [stem for stem in settings if stem[:2] in numbers]


def copy_start(start: str, places: Sequence[Any], draws_all: bool) -> None:
    """Copy a run's results, without tables and figures if all are drawn again, to `places`: results and figures."""
    theirs, (results, figures) = Results(start), places
    shutil.copytree(theirs.folder, results, ignore=shutil.ignore_patterns("tables") if draws_all else None)
    if theirs.figures.is_dir() and not draws_all:
        shutil.copytree(theirs.figures, figures)
