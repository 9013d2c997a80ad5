"""Tables and figures of UniME and SugarCrepe from small results made by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from g2e_lib.report import crepe_report, unime_report

ZERO_SHOT = "zero-shot, UniME's prompt"


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def estimate(value, spread=1.0, n=100):
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def groups(value, seeds=(1.0,)):
    scores = {name: estimate(value) for name in ("vqa", "IND", "OOD", "overall")}
    return {"groups": scores, "overall_by_seed": list(seeds), "log": [], "seconds": []}


def difference(value, by_seed=None):
    return {**groups(value)["groups"], "overall_by_seed": by_seed or [value]}


@pytest.fixture
def unime():
    records = [{"step": s, "negative_similarity": 0.5, "loss": 2.0 / s, "gradient_norm": 3.0} for s in (1, 2, 3)]
    statistics = {field: estimate(0.5, 0.1, 3) for field in unime_report.CURVES}
    words = [["sun", 0.6], ["star", 0.2]]
    tasks = {name: estimate(80) for name in unime_report.TASKS}
    judged = {"rates": {"beta = 0.1": estimate(4), "no filter": estimate(9)}, "dropped": {}}
    judged["differences"] = {"beta = 0.1": estimate(-5)}
    return {
        "teacher": {"model": "glyphworld", "recall": estimate(95)},
        "arms": {n: groups(50) for n in (ZERO_SHOT, "UniME stage 1", "SaHa", "UniME stage 1 + 2")},
        "differences": {
            ZERO_SHOT: {"UniME stage 1": difference(3)},
            "UniME stage 1": {"UniME stage 1 + 2": difference(10, [10, -1])},
            "SaHa": {"UniME stage 1 + 2": difference(-4)},
        },
        "retrieval": {"UniME stage 1": tasks},
        "retrieval_name": "GlyphWorld",
        "filter": {"as stage 2 begins": judged},
        "filter_used": "beta = 0.1",
        "negatives": {"hard": [records], "easy": [records, records]},
        "negatives_means": {"hard": statistics},
        "negatives_differences": {"easy": statistics},
        "next_words": [
            {"model": m, "image": words, "text": words, "overlap": estimate(70)} for m in ("before", "after")
        ],
    }


def test_unime_stands_beside_its_paper(unime):
    table = unime_report.unime_table(unime, "mini").set_index("")
    assert table.loc["paper, LLaVA-1.6 7B: UniME stage 1+2", "Overall"] == "66.6"
    assert table.loc["mini: SaHa", "Overall"] == "50.0 [49.0, 51.0]"
    assert table.loc["UniME stage 1 + 2 - SaHa", "Overall"] == "-4.0 [-5.0, -3.0]"
    assert not any(label.startswith("paper") for label in unime_report.unime_table(unime, "smoke")[""])


def test_retrieval_has_the_shape_of_the_papers_table(unime):
    table = unime_report.retrieval_table(unime, "mini")
    row = table[(table[""] == "paper, Phi3.5-V 4.2B: UniME stage 1") & (table["captions"] == "COCO / Urban1K")]
    assert row.iloc[0][["short, i→t", "long, t→i"]].tolist() == ["44.9", "86.9"]
    assert table.iloc[-1]["short, t→i"] == "80.0 [79.0, 81.0]"
    assert len(unime_report.retrieval_table(unime, "smoke")) == 1


def test_other_tables_of_unime(unime):
    assert "95.0 [94.0, 96.0], n = 100" in unime_report.teacher_table(unime)["value"].tolist()
    table = unime_report.filter_table(unime).set_index("filter")
    assert table.loc["beta = 0.1", "against no filter (points)"] == "-5.0 [-6.0, -4.0]"
    assert table.loc["no filter", "right answers of the batch dropped (%)"] == "–"
    words = unime_report.stages_words_table(unime)
    assert words["image"].tolist() == ["sun 0.60, star 0.20"] * 2
    assert unime_report.negatives_table(unime)["negatives"].tolist() == ["hard", "hard - easy"]


def test_figures_of_unime(unime):
    figure = unime_report.negatives_figure(unime)
    assert [axis.get_title() for axis in figure.axes] == list(unime_report.CURVES.values())
    assert len(unime_report.stages_words_figure(unime).axes) == 4


@pytest.fixture
def crepe(tmp_path):
    def scores(value, names=("replace_obj", "swap_obj")):
        members = {**dict.fromkeys(names), "replace": None, "swap": None, "mean": None}
        shown = {name: estimate(value) for name in members}
        return {"subsets": {n: shown[n] for n in names}, "groups": {g: shown[g] for g in ("replace", "swap", "mean")}}

    methods = {"zero-shot: hierarchical": scores(70), "SaHa": scores(60), "UniME stage 1 + 2": scores(75)}
    change = {
        "zero-shot: hierarchical": {
            "SaHa": {"mean": estimate(-10), "swap": estimate(-10)},
            "UniME stage 1 + 2": {"mean": estimate(5)},
        },
        "SaHa": {"UniME stage 1 + 2": {"mean": estimate(15)}},
    }
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    shown = {"group": "swap", "subset": "swap_obj", "row": 1, "image": "a.png", "caption": "a b", "negative": "b a"}
    return {
        "sets": {"sugarcrepe": {"image": methods}, "sugarcrepe_pp": {"image": methods, "text": methods}},
        "differences": {"sugarcrepe": {"image": change}, "sugarcrepe_pp": {"image": change, "text": change}},
        "gallery": {"SaHa": [{**shown, "margin": -0.2, "wrong": 3, "of": 9}]},
    }


def test_crepe_tables(crepe):
    table = crepe_report.crepe_table(crepe, "mini", "sugarcrepe", "image").set_index("")
    assert table.loc["paper, Phi3.5-V 4.2B: VLM2Vec", "swap"] == "66.7"
    assert table.loc["mini: SaHa", "swap_obj"] == "60.0 [59.0, 61.0]"
    assert len(crepe_report.crepe_table(crepe, "mini", "sugarcrepe_pp", "text")) == 3  # no published rows
    differences = crepe_report.crepe_differences_table(crepe)
    assert len(differences) == 9
    assert differences.iloc[0][["difference", "swap", "add"]].tolist() == [
        "SaHa - zero-shot: hierarchical",
        "-10.0 [-11.0, -9.0]",
        "–",
    ]


def test_crepe_figures(crepe, tmp_path):
    figure = crepe_report.crepe_figure(crepe, "sugarcrepe", "image")
    assert [axis.get_title() for axis in figure.axes] == ["replace", "swap", "mean"]
    gallery = crepe_report.crepe_gallery_figure(crepe, tmp_path)
    texts = [text.get_text() for axis in gallery.axes for text in axis.texts]
    assert "replace: no row is wrong" in texts
    assert any("3 of 9 wrong" in text for text in texts)
