"""Whole notebooks on the smoke profile, as run_all.sh runs them."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from standin import SOLVE, Project

from g2e_lib.project import config
from g2e_lib.project.notebooks import notebook_paths

pytestmark = pytest.mark.notebooks


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A copy of the project's notebooks, run from scratch, with a cache of its own."""
    project = Project(tmp_path_factory.mktemp("project"), None, "smoke")
    project.output = project.run()
    return project


def test_every_notebook_was_executed(smoke):
    for path in notebook_paths():
        cells = nbformat.read(smoke.results / "notebooks" / path.name, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


def test_a_second_run_from_the_cache_gives_identical_tables(smoke, tmp_path):
    """Elsewhere, where no results are, and in one process without kernels."""
    assert len(smoke.tables()) >= 105
    second = Project(tmp_path, None, "smoke")
    second.run(G2E_TEST_KERNEL="no", G2E_CACHE=smoke.environment["G2E_CACHE"])
    assert second.tables() == smoke.tables()


def test_the_solutions_are_right(smoke):
    command = [sys.executable, "-c", SOLVE, str(smoke.root), "smoke"]
    done = subprocess.run(command, capture_output=True, text=True, env=smoke.environment, cwd=smoke.root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_07_draws_what_the_other_notebooks_drew(smoke):
    """The runner takes over metrics only, so that every table and figure is made anew."""
    tables, figures = smoke.tables(), smoke.drawn()
    smoke.run("--only", "07", G2E_TEST_KERNEL="no")
    assert smoke.tables() == tables
    assert smoke.drawn() == figures


def test_every_table_and_figure_has_both_formats(smoke):
    for suffix in ("md", "tex"):
        tables = smoke.results / "tables"
        assert {p.stem for p in tables.glob("*.csv")} == {p.stem for p in tables.glob(f"*.{suffix}")}
    assert {p.stem for p in smoke.figures.glob("*.png")} == {p.stem for p in smoke.figures.glob("*.svg")}
    assert len(list(smoke.figures.glob("*.png"))) >= 26


def test_metrics_carry_provenance(smoke):
    wanted = {"commit", "fingerprint", "model", "data", "seed", "libraries", "device", "dtype", "n", "seconds"}
    files = sorted((smoke.results / "metrics").glob("*.json"))
    assert [f.stem for f in files] == [
        "ablations",
        "attention",
        "benchmarks",
        "gallery",
        "mining",
        "mining_example",
        "modality_gap",
        "modality_gap_trained",
        "next_words",
        "setup",
        "similarities",
        "sugarcrepe",
        "training",
        "unime",
        "unime_ablations",
        "zero_shot",
    ]
    for file in files:
        assert wanted <= set(json.loads(file.read_text())["provenance"]), file.name


def test_nothing_names_this_machine(smoke):
    for path in smoke.results.rglob("*"):
        if path.is_file():
            text = path.read_text(errors="ignore")
            assert str(smoke.root) not in text, path
            assert str(Path.home()) + "/" not in text, path
            assert str(config.ROOT) + "/" not in text, path


def test_smoke_numbers_never_stand_beside_the_papers(smoke):
    assert "paper" not in (smoke.results / "tables" / "table_1_zero_shot.csv").read_text()
    rows = (smoke.results / "tables" / "claims.md").read_text().splitlines()[2:]
    assert {row.split("|")[3].strip() for row in rows} == {"–"}


def test_the_run_ends_with_the_claims(smoke):
    assert "claims: " in smoke.output
    assert (smoke.results / "claims.md").read_text().startswith("# Claims of the papers, profile smoke")
    assert "data:image/png;base64," in (smoke.results / "report.html").read_text()
