"""Execute the notebooks in order: what run_all.sh calls once the environment is right."""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from papermill.exceptions import PapermillExecutionError

from g2e_lib.project import config
from g2e_lib.project.provenance import environment
from g2e_lib.project.store import write_json
from g2e_lib.scale import costs

KERNEL = "python3"
QUIET_KERNEL = ["--Application.log_level=ERROR"]  # its start-up warnings are not about the notebooks


class UsageError(ValueError):
    """A command line that cannot be carried out; the message says what would be right."""


def notebook_paths() -> list[Path]:
    """The numbered notebooks in order."""
    return sorted(config.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))


def parameter_defaults(notebook: Path) -> dict[str, Any]:
    """The names and default values in a notebook's parameters cell, in order.

    Raises:
        ValueError: the notebook has not exactly one such cell.
    """
    cells = [c for c in nbformat.read(notebook, as_version=4).cells if "parameters" in c.metadata.get("tags", [])]
    if len(cells) != 1:
        raise ValueError(f"notebook {notebook.name} has {len(cells)} cells tagged 'parameters': it must have one")
    defaults: dict[str, Any] = {}
    exec(compile(cells[0].source, notebook.name, "exec"), {}, defaults)  # literals only, checked by the tests
    return defaults


def parse_value(name: str, text: str, default: Any) -> Any:  # noqa: ANN401
    """Read a parameter's value from the command line, of the same type as its default.

    Raises:
        UsageError: the type differs.

    >>> parse_value("seed", "3", 0), parse_value("rate", "2", 0.5), parse_value("model", "7", "a")
    (3, 2.0, '7')
    """
    if isinstance(default, str):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    if isinstance(default, float) and type(value) is int:
        value = float(value)
    if type(value) is not type(default):
        raise UsageError(f"parameter {name} takes a {type(default).__name__} such as {default!r}, not {text!r}")
    return value


def parse_parameters(pairs: Sequence[Sequence[str]], notebooks: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """Check `-p NAME VALUE` pairs against the notebooks' own parameters.

    Args:
        pairs: (name, value as text).
        notebooks: those that will run.

    Returns:
        For each notebook (file stem) the parameters it gets; a parameter goes to every notebook that has it.

    Raises:
        UsageError: no notebook has such a parameter, or the value's type is wrong.
    """
    defaults = {path.stem: parameter_defaults(path) for path in notebooks}
    chosen: dict[str, dict[str, Any]] = {stem: {} for stem in defaults}
    for name, text in pairs:
        takers = [stem for stem, values in defaults.items() if name in values]
        if not takers or name in ("profile", "is_fresh"):
            known = "; ".join(
                f"{stem}: " + ", ".join(n for n in values if n not in ("profile", "is_fresh"))
                for stem, values in defaults.items()
            )
            raise UsageError(f"unknown parameter {name!r}. The notebooks to run have: {known}")
        for stem in takers:
            chosen[stem][name] = parse_value(name, text, defaults[stem][name])
    return chosen


def notebooks_of(profile: str) -> list[Path]:
    """The notebooks that a profile names, in order.

    Raises:
        ValueError: there is no such profile.
    """
    named = config.load_profile(profile)
    return [path for path in notebook_paths() if path.stem in named]


def select_notebooks(first: str | None, only: str | None, profile: str = "mini") -> list[Path]:
    """The notebooks to run.

    Args:
        first: number to start from, such as "01".
        only: number of the only one to run.
        profile: one that names the notebooks.

    Raises:
        UsageError: the profile has no such number.
        ValueError: there is no such profile.
    """
    paths = notebooks_of(profile)
    numbers = [path.name[:2] for path in paths]
    for number in (first, only):
        if number is not None and number.zfill(2) not in numbers:
            raise UsageError(f"profile {profile} has no notebook {number}: choose one of {', '.join(numbers)}")
    if only is not None:
        return [paths[numbers.index(only.zfill(2))]]
    return paths[numbers.index(first.zfill(2)) :] if first is not None else paths


def tidy(path: Path) -> None:
    """Make an executed copy the same from run to run: no times, no progress bars, no paths of this machine."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"  # papermill's injected cell has a random one
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = output["text"].replace(f"{config.ROOT}{os.sep}", "")
    nbformat.write(notebook, path)


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute one notebook.

    Raises:
        RuntimeError: a cell failed; the message names notebook, cell, error and the executed copy.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        papermill.execute_notebook(
            notebook,
            output,
            parameters,
            kernel_name=KERNEL,
            cwd=config.ROOT,
            progress_bar=sys.stderr.isatty(),
            extra_arguments=QUIET_KERNEL,
        )
    except PapermillExecutionError as error:
        raise RuntimeError(
            f"notebook {notebook.stem} failed in cell {error.cell_index}: {error.ename}: {error.evalue}\n"
            f"the executed copy with the traceback is {output}"
        ) from None
    tidy(output)


def _aside(place: Path) -> Path:
    """Where a folder waits while a new one takes its place."""
    return config.ROOT / ".staging" / "aside" / place.relative_to(config.ROOT)


def put_into_place(staged: Path, place: Path) -> None:
    """Replace a folder of results by a new one; what a kill leaves in between, `bring_back` puts right."""
    aside = _aside(place)
    for folder in (aside, place):
        folder.parent.mkdir(parents=True, exist_ok=True)
    if place.is_dir():
        place.rename(aside)
    shutil.move(staged, place)
    shutil.rmtree(aside, ignore_errors=True)


def bring_back(place: Path) -> None:
    """Undo a replacement that was killed between its two moves: other notebooks' results would be gone."""
    aside = _aside(place)
    if aside.is_dir() and not place.exists():
        aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def run(profile: str, notebooks: Sequence[Path], overrides: dict[str, dict[str, Any]], is_fresh: bool = False) -> None:
    """Run notebooks in a staging folder and put their results into place only if all succeed.

    Args:
        profile: a profile's name.
        notebooks: in order; results of those left out are kept as they are.
        overrides: parameters by notebook, beyond the profile's.
        is_fresh: ignore caches.

    Raises:
        ValueError: unknown profile.
        RuntimeError: a notebook failed.
    """
    settings = config.load_profile(profile)
    staging = config.ROOT / ".staging" / profile
    shutil.rmtree(staging, ignore_errors=True)
    places = {config.RESULTS / profile: staging / "results", config.FIGURES / profile: staging / "figures"}
    for place, staged in places.items():
        bring_back(place)
        if place.is_dir() and len(notebooks) < len(notebooks_of(profile)):
            shutil.copytree(place, staged)
        staged.mkdir(parents=True, exist_ok=True)
    os.environ[config.RESULTS_VARIABLE], os.environ[config.FIGURES_VARIABLE] = map(str, places.values())
    record_path = staging / "results" / "provenance.json"
    record = {"profile": profile, **environment(), "notebooks": {}}
    if record_path.exists():  # of the notebooks that do not run this time
        record["notebooks"] = json.loads(record_path.read_text(encoding="utf-8"))["notebooks"]
    started = time.perf_counter()
    for number, notebook in enumerate(notebooks, 1):
        parameters = {"profile": profile, "is_fresh": is_fresh}
        parameters |= settings.get(notebook.stem, {}) | overrides.get(notebook.stem, {})
        shown = " ".join(f"{key}={value!r}" for key, value in parameters.items())
        print(f"[{number}/{len(notebooks)}] {notebook.stem}  {shown}", flush=True)  # noqa: T201
        begun = time.perf_counter()
        run_notebook(notebook, staging / "results" / "notebooks" / notebook.name, parameters)
        seconds = time.perf_counter() - begun
        facts = {"commit": record["commit"], "parameters": parameters, "seconds": round(seconds, 1)}
        record["notebooks"][notebook.stem] = facts
        print(f"      done in {seconds:.0f} s", flush=True)  # noqa: T201
    write_json(record_path, record)
    for place, staged in places.items():
        put_into_place(staged, place)
    shutil.rmtree(staging, ignore_errors=True)
    for variable in (config.RESULTS_VARIABLE, config.FIGURES_VARIABLE):
        del os.environ[variable]  # from here on the results are where they belong
    for place in places:
        print(f"      {place.relative_to(config.ROOT)}/", flush=True)  # noqa: T201
    print(f"all done in {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201
    conclude(profile, is_complete=len(notebooks) == len(notebooks_of(profile)))


def conclude(profile: str, is_complete: bool) -> None:
    """Print the papers' claims with their verdicts, and bring the README's numbers up to date.

    Args:
        profile: what was run.
        is_complete: every notebook was run; only then, and only for the README's own profile, is it touched.
    """
    from g2e_lib.report import claims, readme  # here: they draw, and a wrong command line should be told at once
    from g2e_lib.report.catalogue import Catalogue

    catalogue = Catalogue(profile)
    if any(map(catalogue.has, claims.METRICS)):
        print("\n" + claims.claims_text(catalogue.claims_now(is_short=True)), flush=True)  # noqa: T201
    if is_complete and profile == readme.PROFILE and readme.refresh():
        print(f"{readme.NAME}: numbers brought up to date", flush=True)  # noqa: T201


def all_settings(
    profile: str, notebooks: Sequence[Path], overrides: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """All parameters that notebooks will run with, by file stem."""
    settings = config.load_profile(profile)
    return {p.stem: parameter_defaults(p) | settings.get(p.stem, {}) | overrides.get(p.stem, {}) for p in notebooks}


def list_notebooks() -> str:
    """What `--list` prints: notebooks with their questions and parameters, then the profiles."""
    lines = []
    for path in notebook_paths():
        title = nbformat.read(path, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        lines.append(f"{path.stem}  {title}")
        lines += [f"    -p {n} {v!r}" for n, v in parameter_defaults(path).items() if n not in ("profile", "is_fresh")]
    return "\n".join([*lines, "", "profiles: " + ", ".join(config.profile_names())])


def parser() -> argparse.ArgumentParser:
    """The command line of run_all.sh."""
    one = argparse.ArgumentParser(
        prog="run_all.sh",
        description="Run the notebooks in order and regenerate every table and figure.",
        epilog="`run_all.sh test [pytest arguments]` runs the test suite instead.",
    )
    one.add_argument("--profile", default="mini", help="size of the run (default: mini); --list shows all")
    which = one.add_mutually_exclusive_group()
    which.add_argument("--from", dest="first", metavar="NN", help="start at this notebook")
    which.add_argument("--only", metavar="NN", help="run this notebook only")
    one.add_argument(
        "-p", dest="parameters", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="set a parameter"
    )
    one.add_argument("--list", action="store_true", help="show notebooks, parameters and profiles, and stop")
    one.add_argument("--fresh", action="store_true", help="ignore caches and compute everything again")
    return one


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the exit status: 0, 1 if a notebook failed, 2 for a wrong command line."""
    options = parser().parse_args(arguments)
    try:
        if options.list:
            print(list_notebooks())  # noqa: T201
            return 0
        notebooks = select_notebooks(options.first, options.only, options.profile)
        overrides = parse_parameters(options.parameters, notebooks)
        if not costs.confirm(all_settings(options.profile, notebooks, overrides)):
            return 0
    except ValueError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)  # noqa: T201
        return 2
    try:
        run(options.profile, notebooks, overrides, options.fresh)
    except RuntimeError as error:
        print(f"run_all.sh: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
