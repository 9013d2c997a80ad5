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
from g2e_lib.report import Report, claims, conclude, pages, readme
from g2e_lib.report.registry import ENTRIES
from g2e_lib.report.text import TableView

STORED, STORED_FIGURES = config.RESULTS / "reference" / "mini", config.FIGURES / "reference" / "mini"
HEAVY = ("torch", "transformers", "safetensors", "pyarrow", "datasets", "peft", "accelerate", "tokenizers")

# Run in an interpreter that has none of the model's libraries.
WITHOUT_MODELS = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from g2e_lib.report import Report
from g2e_lib.report.pages import write_site
report = Report("mini")
states = report.redraw()
write_site(report)
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
def report(tmp_path, monkeypatch):
    """A report on a copy of the stored metrics, with nothing drawn."""
    copy_metrics(tmp_path)
    monkeypatch.setenv(config.RESULTS_VARIABLE, str(tmp_path / "results"))
    monkeypatch.setenv(config.FIGURES_VARIABLE, str(tmp_path / "figures"))
    yield Report("mini")
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
        with Image.open(path) as ours, Image.open(STORED_FIGURES / name) as stored:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(stored), err_msg=str(name))


def test_pages_are_stored_as_they_are_drawn(drawn):
    root, _ = drawn
    assert (root / "results" / "claims.md").read_text() == (STORED / "claims.md").read_text()


def test_a_changed_metric_changes_readme_claims_and_tables(report):
    text = "\n".join(f"<!-- {name}:start --><!-- {name}:end -->" for name in readme.BLOCKS)
    before = readme.render(text, report), report.claims().whole, report.table("table_1_zero_shot").whole
    path = report.folder / "metrics" / "zero_shot.json"
    metrics = json.loads(path.read_text())
    metrics["differences"]["none"]["hierarchical"]["overall"] |= {"value": 1.23, "low": -4.56, "high": 7.89}
    metrics["prompts"]["hierarchical"]["groups"]["overall"]["value"] = 98.76
    path.write_text(json.dumps(metrics))
    after = readme.render(text, report), report.claims().whole, report.table("table_1_zero_shot").whole
    claim = "the hierarchical prompt beats no prompt, overall"
    row = after[1].set_index("claim").loc[claim]
    assert (row["ours"], row["verdict"]) == ("+1.2 [-4.6, +7.9] points", claims.NOT_REPRODUCED)
    assert before[1].set_index("claim").loc[claim, "verdict"] == claims.REPRODUCED
    assert re.search(rf"{claim}.*\+1\.2 \[-4\.6, \+7\.9\].* no ", after[0])
    assert "98.8" in after[0]
    assert "98.8" not in before[0]
    changed = before[2].ne(after[2])
    assert changed.to_numpy().sum() == 2  # ours, and the paired difference
    assert "**98.8" in (report.folder / "tables" / "table_1_zero_shot.md").read_text()


def test_fresh_removes_what_is_old(report):
    old = report.folder / "tables" / "old.csv", report.figures / "old.png"
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("old")
    shutil.rmtree(report.folder / "metrics")
    (report.folder / "metrics").mkdir()
    states = report.redraw(is_fresh=True)
    assert not any(path.exists() for path in old)
    assert states.query("name == 'training' and kind == 'figure'")["state"].item() == (
        "left out: there is no metrics/training.json"
    )
    assert (report.folder / "tables" / "claims.csv").exists()  # all of them "not run"


def test_missing_metrics_and_unknown_names_are_told(report):
    with pytest.raises(ValueError, match="nothing called 'tabel_1' to draw: choose one of table_1_zero_shot"):
        report.table("tabel_1")
    (report.folder / "metrics" / "mining.json").unlink()
    with pytest.raises(ValueError, match="mining.json does not exist: run the notebook that writes it first"):
        report.figure("false_negatives")


def test_gaps_after_training_are_drawn_beside_those_before(report):
    gap = report.metrics("modality_gap")
    panel = gap["panels"]["none"]
    trained = {"panels": {"saha": panel}}
    (report.folder / "metrics" / "modality_gap_trained.json").write_text(json.dumps(trained))
    assert report.table("modality_gap").whole["prompt"].tolist() == [*gap["panels"], "SaHa"]
    titles = [axis.get_title() for axis in report.draw("figure", "modality_gap").axes]
    assert any(title.startswith("SaHa\ngap") for title in titles)


def test_every_entry_has_a_caption_and_a_place():
    placed = {metrics for _, names in pages.SECTIONS.values() for metrics in names}
    for name, entry in ENTRIES.items():
        assert entry.caption.endswith("."), name
        assert entry.needs[0] in placed, f"{name}: add metrics/{entry.needs[0]} to pages.SECTIONS"
    assert {one.part for one in claims.CLAIMS} == {
        "zero_shot", "mining", "training", "ablation", "unime", "sugarcrepe",
    }  # fmt: skip


def test_notebooks_draw_what_is_registered():
    names = set()
    for path in sorted(config.NOTEBOOKS.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        for kind, call in re.findall(r"report\.(table|figure)\(([^)]*)\)", text):
            names |= {(kind, name) for name in re.findall(r'\\"(\w+)\\"', call)}
    assert len(names) > 25
    assert names <= set(ENTRIES), names - set(ENTRIES)


def test_a_notebook_shows_an_excerpt_with_the_whole_table_under_it(report):
    view = report.table("table_2_training")
    whole, excerpt = view.whole, view.excerpt
    assert excerpt.shape[0] <= 8 < whole.shape[0]
    assert excerpt.shape[1] <= 6 < whole.shape[1]
    assert set(excerpt[""]) >= {name for name in whole[""] if name.startswith("mini:")}  # ours are not left out
    head, _, folded = view._repr_html_().partition("<details>")
    assert head.count("<tr>") == len(excerpt) + 1
    assert folded.count("<tr>") == len(whole) + 1
    assert f"{len(whole)} rows" in folded
    small = report.table("prompt_differences").whole.iloc[:3, :4]
    assert "<details>" not in TableView(small)._repr_html_()


def test_figures_are_saved_and_shown_once(report, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    report.figure("training", "miner_tradeoff")
    for picture, name in zip(shown, ("training", "miner_tradeoff"), strict=True):
        assert picture.data == (report.figures / f"{name}.png").read_bytes()
        assert (report.figures / f"{name}.svg").is_file()
    assert not plt.get_fignums()  # an open figure would be shown again


def test_a_run_ends_with_its_main_claims(report):
    text = conclude("mini")
    assert text.startswith("claims: ")
    assert len(text.splitlines()) == 2 + sum(not claim.is_detail for claim in claims.CLAIMS)
    shutil.rmtree(report.folder / "metrics")
    assert conclude("mini") == ""
