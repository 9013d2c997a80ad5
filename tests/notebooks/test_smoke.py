"""Whole notebooks on the smoke profile, as run_all.sh runs them."""

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from g2e_lib.project import config
from g2e_lib.project import runner as run

pytestmark = pytest.mark.notebooks


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """A copy of the project's notebooks, run from scratch, with a cache of its own."""
    root = tmp_path_factory.mktemp("project")
    code = (
        "import sys, pathlib; from g2e_lib.project import config, runner as run; root = pathlib.Path(sys.argv[1]);"
        "config.RESULTS, config.FIGURES = root / 'results', root / 'figures';"
        "config.ROOT = root; sys.exit(run.main(['--profile', 'smoke']))"
    )
    environment = {**__import__("os").environ, "G2E_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1"}
    outputs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code, root], capture_output=True, text=True, env=environment, cwd=root, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        (root / "output.txt").write_text(done.stdout)
        outputs.append(
            {p.relative_to(root): p.read_bytes() for p in sorted((root / "results").rglob("*")) if p.is_file()}
        )
    return root, *outputs


def test_every_notebook_was_executed(smoke):
    root, *_ = smoke
    for path in run.notebook_paths():
        cells = nbformat.read(root / "results/smoke/notebooks" / path.name, as_version=4).cells
        code = [cell for cell in cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code)
        assert not [o for cell in code for o in cell.outputs if o.output_type == "error"]


def test_the_second_run_gives_identical_tables(smoke):
    _, first, second = smoke
    tables = [path for path in first if "tables" in path.parts]
    assert len(tables) >= 105
    assert {path: first[path] for path in tables} == {path: second[path] for path in tables}


def test_every_table_and_figure_has_both_formats(smoke):
    root, *_ = smoke
    tables, figures = root / "results/smoke/tables", root / "figures/smoke"
    for suffix in ("md", "tex"):
        assert {p.stem for p in tables.glob("*.csv")} == {p.stem for p in tables.glob(f"*.{suffix}")}
    assert {p.stem for p in figures.glob("*.png")} == {p.stem for p in figures.glob("*.svg")}
    assert len(list(figures.glob("*.png"))) >= 26


def test_metrics_carry_provenance(smoke):
    root, *_ = smoke
    wanted = {"commit", "fingerprint", "model", "data", "seed", "libraries", "device", "dtype", "n", "seconds"}
    files = sorted((root / "results/smoke/metrics").glob("*.json"))
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
    root, *_ = smoke
    for path in (root / "results").rglob("*"):
        if path.is_file():
            text = path.read_text(errors="ignore")
            assert str(root) not in text, path
            assert str(Path.home()) + "/" not in text, path
            assert str(config.ROOT) + "/" not in text, path


def test_smoke_numbers_never_stand_beside_the_papers(smoke):
    root, *_ = smoke
    assert "paper" not in (root / "results/smoke/tables/table_1_zero_shot.csv").read_text()
    rows = (root / "results/smoke/tables/claims.md").read_text().splitlines()[2:]
    assert {row.split("|")[3].strip() for row in rows} == {"–"}


def test_the_run_ends_with_the_claims(smoke):
    root, *_ = smoke
    assert "claims: " in (root / "output.txt").read_text()
    assert (root / "results/smoke/claims.md").read_text().startswith("# Claims of the papers, profile smoke")
    assert "data:image/png;base64," in (root / "results/smoke/report.html").read_text()


def test_07_draws_what_the_other_notebooks_drew(smoke, tmp_path):
    root, *_ = smoke
    drawn = {p.relative_to(root): p.read_bytes() for p in sorted((root / "figures").rglob("*.*"))}
    for name in ("figures/smoke", "results/smoke/tables"):
        (root / name).rename(tmp_path / name.replace("/", "-"))
    code = (
        "import sys, pathlib; from g2e_lib.project import config; root = pathlib.Path(sys.argv[1]);"
        "config.RESULTS, config.FIGURES = root / 'results', root / 'figures';"
        "from g2e_lib.report.catalogue import Catalogue; Catalogue('smoke').redraw()"
    )
    subprocess.run([sys.executable, "-c", code, root], check=True, cwd=root)
    assert {p.relative_to(root): p.read_bytes() for p in sorted((root / "figures").rglob("*.*"))} == drawn
    for path in (root / "results/smoke/tables").iterdir():
        assert path.read_bytes() == (tmp_path / "results-smoke-tables" / path.name).read_bytes(), path.name
