"""Everything is drawn from stored results alone, and follows them."""

import json
import re
import shutil
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from g2e_lib.project import config
from g2e_lib.report import catalogue as catalogue_module
from g2e_lib.report import claims, html_report, readme
from g2e_lib.report.catalogue import FIGURES, TABLES, Catalogue

STORED = config.RESULTS / "mini"
HEAVY = ("torch", "transformers", "safetensors", "pyarrow", "datasets", "peft", "accelerate", "tokenizers")

# Run in an interpreter that has none of the model's libraries.
WITHOUT_MODELS = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from g2e_lib.report.catalogue import Catalogue
from g2e_lib.report.html_report import write_pages
catalogue = Catalogue("mini")
states = catalogue.redraw()
write_pages(catalogue)
print(states.to_json())
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A copy of the stored metrics with everything drawn from them by an interpreter without torch."""
    root = tmp_path_factory.mktemp("redrawn")
    copy_metrics(root)
    done = run_without_models(root)
    return root, pd.DataFrame(json.loads(done.stdout.splitlines()[-1]))


def copy_metrics(root):
    for part in ("metrics", "images"):
        shutil.copytree(STORED / part, root / "results" / part)


def run_without_models(root):
    environment = {**__import__("os").environ, "PYTHONPATH": str(config.ROOT)}
    environment |= {"G2E_RESULTS": str(root / "results"), "G2E_FIGURES": str(root / "figures")}
    arguments = [sys.executable, "-c", WITHOUT_MODELS, ",".join(HEAVY)]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture
def catalogue(tmp_path, monkeypatch):
    """A catalogue of a copy of the stored metrics, with nothing drawn."""
    copy_metrics(tmp_path)
    monkeypatch.setenv(config.RESULTS_VARIABLE, str(tmp_path / "results"))
    monkeypatch.setenv(config.FIGURES_VARIABLE, str(tmp_path / "figures"))
    yield Catalogue("mini")
    plt.close("all")


def files(folder, pattern):
    return {path.relative_to(folder): path for path in sorted(folder.rglob(pattern))}


def test_all_that_has_metrics_is_drawn(drawn):
    root, states = drawn
    available = {path.stem for path in (root / "results" / "metrics").glob("*.json")}
    for row in states.itertuples():
        if set(row.metrics.split(", ")) <= available:
            assert row.state == "drawn", row
    written = {path.stem for path in (root / "figures").glob("*.png")}
    assert written == set(states.query("kind == 'figure' and state == 'drawn'")["name"])
    assert {path.stem for path in (root / "figures").glob("*.svg")} == written
    for suffix in ("csv", "md", "tex"):
        names = {path.stem for path in (root / "results" / "tables").glob(f"*.{suffix}")}
        assert names == set(states.query("kind == 'table' and state == 'drawn'")["name"])


def test_stored_tables_and_figures_are_those_that_are_drawn_again(drawn):
    root, _ = drawn
    tables = files(root / "results" / "tables", "*.*")
    assert tables.keys() == files(STORED / "tables", "*.*").keys()
    for name, path in tables.items():
        assert path.read_bytes() == (STORED / "tables" / name).read_bytes(), name
    for name, path in files(root / "figures", "*.png").items():
        with Image.open(path) as ours, Image.open(config.FIGURES / "mini" / name) as stored:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(stored), err_msg=str(name))


def test_pages_are_stored_as_they_are_drawn(drawn):
    root, _ = drawn
    assert (root / "results" / "claims.md").read_text() == (STORED / "claims.md").read_text()


def test_a_changed_metric_changes_readme_claims_and_tables(catalogue):
    text = (config.ROOT / readme.NAME).read_text(encoding="utf-8")
    before = readme.render(text, catalogue), catalogue.claims(), catalogue.table("table_1_zero_shot")
    path = catalogue.results / "metrics" / "zero_shot.json"
    metrics = json.loads(path.read_text())
    metrics["differences"]["none"]["hierarchical"]["overall"] |= {"value": 1.23, "low": -4.56, "high": 7.89}
    metrics["prompts"]["hierarchical"]["groups"]["overall"]["value"] = 98.76
    path.write_text(json.dumps(metrics))
    after = readme.render(text, catalogue), catalogue.claims(), catalogue.table("table_1_zero_shot")
    claim = "the hierarchical prompt beats no prompt, overall"
    row = after[1].set_index("claim").loc[claim]
    assert (row["ours"], row["verdict"]) == ("+1.2 [-4.6, +7.9] points", claims.NOT_REPRODUCED)
    assert before[1].set_index("claim").loc[claim, "verdict"] == claims.REPRODUCED
    assert re.search(rf"{claim}.*\+1\.2 \[-4\.6, \+7\.9\] points.* no ", after[0])
    assert "98.8" in after[0]
    assert "98.8" not in before[0]
    changed = before[2].ne(after[2])
    assert changed.to_numpy().sum() == 2  # ours, and the paired difference
    assert "**98.8" in (catalogue.results / "tables" / "table_1_zero_shot.md").read_text()


def test_fresh_removes_what_is_old(catalogue):
    old = catalogue.results / "tables" / "old.csv", catalogue.figures / "old.png"
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    shutil.rmtree(catalogue.results / "metrics")
    (catalogue.results / "metrics").mkdir()
    states = catalogue.redraw(is_fresh=True)
    assert not any(path.exists() for path in old)
    assert states.query("name == 'training' and kind == 'figure'")["state"].item() == (
        "left out: there is no metrics/training.json"
    )
    assert (catalogue.results / "tables" / "claims.csv").exists()  # all of them "not run"


def test_missing_metrics_and_unknown_names_are_told(catalogue):
    with pytest.raises(ValueError, match="nothing called 'tabel_1' to draw: choose one of table_1_zero_shot"):
        catalogue.table("tabel_1")
    (catalogue.results / "metrics" / "mining.json").unlink()
    with pytest.raises(ValueError, match="mining.json does not exist: run the notebook that writes it first"):
        catalogue.figure("false_negatives")


def test_gaps_after_training_are_drawn_beside_those_before(catalogue):
    gap = catalogue.metrics("modality_gap")
    panel = gap["panels"]["none"]
    trained = {"panels": {"SaHa": panel}}
    (catalogue.results / "metrics" / "modality_gap_trained.json").write_text(json.dumps(trained))
    assert catalogue.table("modality_gap")["prompt"].tolist() == [*gap["panels"], "SaHa"]
    titles = [axis.get_title() for axis in catalogue.figure("modality_gap").axes]
    assert any(title.startswith("SaHa\ngap") for title in titles)


def test_every_entry_has_a_caption_and_a_place():
    placed = {metrics for _, names in html_report.SECTIONS.values() for metrics in names}
    for name, entry in {**TABLES, **FIGURES}.items():
        assert entry.caption.endswith("."), name
        assert entry.needs[0] in placed, f"{name}: add metrics/{entry.needs[0]} to html_report.SECTIONS"
    assert {one.part for one in claims.CLAIMS} == {
        "zero_shot", "mining", "training", "ablation", "unime", "sugarcrepe",
    }  # fmt: skip


def test_notebooks_draw_what_the_catalogue_knows():
    names = set()
    for path in sorted(config.NOTEBOOKS.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        names |= {("table", name) for name in re.findall(r'catalogue\.table\(\\"(\w+)\\"\)', text)}
        for call in re.findall(r"catalogue\.draw\(([^)]*)\)", text):
            names |= {("figure", name) for name in re.findall(r'\\"(\w+)\\"', call)}
    assert len(names) > 25
    known = {"table": TABLES, "figure": FIGURES}
    assert all(name in known[kind] for kind, name in names), names
    assert catalogue_module.__doc__
