"""Execute notebooks in a staging folder, and put their results into place only if all succeed."""

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from g2e_lib.project import config
from g2e_lib.project.notebooks import RUN_PARAMETER, cell_parameters
from g2e_lib.project.plan import Plan, copy_start
from g2e_lib.project.provenance import environment
from g2e_lib.project.results import RECORD
from g2e_lib.project.store import read_json, write_json

KERNEL = "python3"
WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar, where ipywidgets is installed
QUIET_KERNEL = ["--Application.log_level=ERROR"]  # its start-up warnings are not about the notebooks


def tidy(path: Path) -> None:
    """Make an executed copy the same from run to run: no times, no progress bars, no paths of this machine."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    for made_anew in ("papermill", "widgets"):
        notebook.metadata.pop(made_anew, None)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"  # papermill's injected cell has a random one
        cell.metadata = {key: value for key, value in cell.metadata.items() if key == "tags"}
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr" and WIDGET not in o.get("data", {})]
            for output in cell.outputs:
                if "text" in output:
                    output["text"] = output["text"].replace(f"{config.ROOT}{os.sep}", "")
    nbformat.write(notebook, path)


def run_notebook(notebook: Path, output: Path, parameters: dict[str, Any]) -> None:
    """Execute one notebook.

    Raises:
        RuntimeError: a cell failed; the message names notebook, cell, error and the executed copy.
    """
    import papermill  # here, because it takes longer to load than --list and --help may
    from papermill.exceptions import PapermillExecutionError

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
        place.parent.mkdir(parents=True, exist_ok=True)
        aside.rename(place)
    shutil.rmtree(aside, ignore_errors=True)


def places_of(name: str) -> tuple[Path, Path]:
    """Where a run's results and figures belong; what a kill left half-moved is put right."""
    places = config.RESULTS / name, config.FIGURES / name
    for place in places:
        bring_back(place)
    return places


@contextmanager
def staging(name: str) -> Iterator[tuple[Path, Path]]:
    """Folders for results and figures, not made yet, that replace a run's own when the block succeeds."""
    places, folder = places_of(name), config.ROOT / ".staging" / name
    shutil.rmtree(folder, ignore_errors=True)
    staged = folder / "results", folder / "figures"
    yield staged
    for ready, place in zip(staged, places, strict=True):
        put_into_place(ready, place)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _pointed_at(results: Path, figures: Path) -> Iterator[None]:
    """Let notebooks read and write there."""
    os.environ[config.RESULTS_VARIABLE], os.environ[config.FIGURES_VARIABLE] = str(results), str(figures)
    try:
        yield
    finally:
        for variable in (config.RESULTS_VARIABLE, config.FIGURES_VARIABLE):
            del os.environ[variable]


def run(plan: Plan) -> None:
    """Carry out a plan; results of notebooks that do not run are kept as they are.

    Raises:
        RuntimeError: a notebook failed.
    """
    started = time.perf_counter()
    with staging(plan.name) as (results, figures):
        if plan.start:
            copy_start(plan.start, (results, figures), plan.draws_all)
        for folder in (results, figures):
            folder.mkdir(parents=True, exist_ok=True)
        path = results / RECORD
        before = read_json(path, made_by="run_all.sh")["notebooks"] if path.is_file() else {}
        names = {"name": plan.name, "profile": plan.profile, "base": plan.base}
        record = {**names, **environment(), "settings": plan.settings, "notebooks": before}
        write_json(path, record | {"is_fresh": plan.is_fresh})  # what notebooks read
        with _pointed_at(results, figures):
            _execute(plan, results / "notebooks", record)
        write_json(path, record)
    for place in (config.RESULTS, config.FIGURES):
        print(f"      {(place / plan.name).relative_to(config.ROOT)}/", flush=True)  # noqa: T201
    print(f"all done in {time.perf_counter() - started:.0f} s", flush=True)  # noqa: T201


def _execute(plan: Plan, folder: Path, record: dict[str, Any]) -> None:
    """Run the plan's notebooks in order and record each."""
    for number, stem in enumerate(plan.notebooks, 1):
        notebook, chosen = config.NOTEBOOKS / f"{stem}.ipynb", plan.chosen[stem]
        injected = {name: chosen[name] for name in cell_parameters(notebook) if name in chosen}
        shown = " ".join(f"{key}={value!r}" for key, value in chosen.items())
        print(f"[{number}/{len(plan.notebooks)}] {stem}  {shown}", flush=True)  # noqa: T201
        begun = time.perf_counter()
        run_notebook(notebook, folder / notebook.name, {RUN_PARAMETER: plan.name, **injected})
        seconds = time.perf_counter() - begun
        facts = {"commit": record["commit"], "is_fresh": plan.is_fresh, "seconds": round(seconds, 1)}
        record["notebooks"][stem] = facts
        print(f"      done in {seconds:.0f} s", flush=True)  # noqa: T201
