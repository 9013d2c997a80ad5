"""Tables and figures of notebook 00 from small results made by hand."""

import json

import madeup
import matplotlib.pyplot as plt
import pytest
from PIL import Image

from g2e_lib.project import config, pictures
from g2e_lib.report import fact_tables, gallery


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_competence_stands_beside_its_gate():
    records = [
        {"kind": kind, "source": side, **madeup.estimate(90)} for kind in ("odd", "count") for side in ("image", "text")
    ]
    table = fact_tables.competence_table({"competence": records, "gates": {"count": (0.85, 0.95)}}).set_index(
        "question"
    )
    assert list(table.index) == ["count", "odd"]  # gated ones first
    assert list(table.loc["count", ["required", "required "]]) == ["85", "95"]
    assert table.loc["odd", "n"] == "100 + 100"


def test_facts_are_listed():
    table = fact_tables.model_table({"training": {"steps": 3, "recipe": {"seed": 0}}}).set_index("fact")["value"]
    assert dict(table) == {"steps": "3", "recipe: seed": "0"}


def test_learning_curves_are_drawn_by_phase():
    log = [{"phase": phase, "step": step, "loss": 1 / step} for phase in ("vision", "language") for step in (1, 2)]
    figure = gallery.learning_curve_figure({"learning": log})
    assert [list(axis.lines[0].get_ydata()) for axis in figure.axes] == [[1, 0.5], [1, 0.5]]


def test_pictures_are_kept_by_content_and_drawn(tmp_path):
    red, blue = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    names = [pictures.save_picture(one, tmp_path) for one in (red, blue, red.copy())]
    assert names[0] == names[2] != names[1]
    assert pictures.save_picture(tmp_path / names[1], tmp_path) == names[1]
    assert pictures.save_picture(None, tmp_path) == ""
    tiles = [{"image": names[0], "title": "red"}, {"image": "", "text": "words", "title": "text"}]
    figure = gallery.tiles_figure({"rows": tiles}, tmp_path, "rows", (6, 2.05, 24, 7.5, 6.5))
    assert [axis.get_title() for axis in figure.axes[:2]] == ["red", "text"]
    assert tuple(figure.axes[0].images[0].get_array()[0, 0]) == (255, 0, 0)


def test_speed_is_told_as_measured():
    stored = {path.stem: json.loads(path.read_text()) for path in config.BENCHMARKS.glob("*.json")}
    table = fact_tables.speed_table(stored)
    assert table["ours"].iloc[0] == f"{stored['embedding']['ours_items_per_second']:.0f}"
    assert len(table) == 4 + len(stored["mining"]["cases"])
    bars = [bar.get_height() for bar in gallery.speed_figure(stored).axes[0].patches]
    assert bars == [stored["embedding"][f"{way}_items_per_second"] for way in ("plain", "ours", "floor")]
