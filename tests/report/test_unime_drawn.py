"""Tables and figures of UniME and SugarCrepe from small results made by hand."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from g2e_lib.report import figures, gallery, score_tables
from g2e_lib.report.fact_tables import next_words_table
from g2e_lib.report.registry import find

PAPERS = find("table", "unime_mmeb").arguments["papers"]

ZERO_SHOT = "zero_shot_unime"


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
    statistics = {field: estimate(0.5, 0.1, 3) for field in score_tables.NEGATIVES_CURVES}
    words = [["sun", 0.6], ["star", 0.2]]
    tasks = {name: estimate(80) for name in score_tables.TASKS}
    judged = {"rates": {"beta = 0.1": estimate(4), "no filter": estimate(9)}, "dropped": {}}
    judged["differences"] = {"beta = 0.1": estimate(-5)}
    return {
        "teacher": {"model": "glyphworld", "recall": estimate(95)},
        "methods": {n: groups(50) for n in (ZERO_SHOT, "unime_1", "saha", "unime_1_2")},
        "differences": {
            ZERO_SHOT: {"unime_1": difference(3)},
            "unime_1": {"unime_1_2": difference(10, [10, -1])},
            "saha": {"unime_1_2": difference(-4)},
        },
        "retrieval": {"unime_1": tasks},
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
    table = score_tables.training_table(unime, "mini", PAPERS).set_index("")
    assert table.loc["paper, LLaVA-1.6 7B: UniME stage 1+2", "Overall"] == "66.6"
    assert table.loc["mini: SaHa", "Overall"] == "50.0 [49.0, 51.0]"
    assert table.loc["UniME stage 1 + 2 - SaHa", "Overall"] == "-4.0 [-5.0, -3.0]"
    assert not any(label.startswith("paper") for label in score_tables.training_table(unime, "smoke", PAPERS)[""])


def test_retrieval_has_the_shape_of_the_papers_table(unime):
    table = score_tables.retrieval_table(unime, "mini")
    row = table[(table[""] == "paper, Phi3.5-V 4.2B: UniME stage 1") & (table["captions"] == "COCO / Urban1K")]
    assert row.iloc[0][["short, i→t", "long, t→i"]].tolist() == ["44.9", "86.9"]
    assert table.iloc[-1]["short, t→i"] == "80.0 [79.0, 81.0]"
    assert len(score_tables.retrieval_table(unime, "smoke")) == 1


def test_other_tables_of_unime(unime):
    assert "95.0 [94.0, 96.0], n = 100" in score_tables.teacher_table(unime)["value"].tolist()
    table = score_tables.filter_table(unime).set_index("filter")
    assert table.loc["beta = 0.1", "against no filter (points)"] == "-5.0 [-6.0, -4.0]"
    assert table.loc["no filter", "right answers of the batch dropped (%)"] == "–"
    words = next_words_table(unime, "next_words", "model")
    assert words["image"].tolist() == ["sun 0.60, star 0.20"] * 2
    assert score_tables.negatives_table(unime)["negatives"].tolist() == ["hard", "hard - easy"]


def test_figures_of_unime(unime):
    figure = figures.negatives_figure(unime)
    assert [axis.get_title() for axis in figure.axes] == list(score_tables.NEGATIVES_CURVES.values())
    assert len(figures.stages_words_figure(unime).axes) == 4


@pytest.fixture
def crepe(tmp_path):
    def scores(value, names=("replace_obj", "swap_obj")):
        members = {**dict.fromkeys(names), "replace": None, "swap": None, "mean": None}
        shown = {name: estimate(value) for name in members}
        return {"subsets": {n: shown[n] for n in names}, "groups": {g: shown[g] for g in ("replace", "swap", "mean")}}

    methods = {"zero_shot:hierarchical": scores(70), "saha": scores(60), "unime_1_2": scores(75)}
    change = {
        "zero_shot:hierarchical": {
            "saha": {"mean": estimate(-10), "swap": estimate(-10)},
            "unime_1_2": {"mean": estimate(5)},
        },
        "saha": {"unime_1_2": {"mean": estimate(15)}},
    }
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    shown = {"group": "swap", "subset": "swap_obj", "row": 1, "image": "a.png", "caption": "a b", "negative": "b a"}
    return {
        "sets": {"sugarcrepe": {"image": methods}, "sugarcrepe_pp": {"image": methods, "text": methods}},
        "differences": {"sugarcrepe": {"image": change}, "sugarcrepe_pp": {"image": change, "text": change}},
        "gallery": {"saha": [{**shown, "margin": -0.2, "wrong": 3, "of": 9}]},
    }


def test_crepe_tables(crepe):
    table = score_tables.crepe_table(crepe, "mini", "sugarcrepe", "image").set_index("")
    assert table.loc["paper, Phi3.5-V 4.2B: VLM2Vec", "swap"] == "66.7"
    assert table.loc["mini: SaHa", "swap_obj"] == "60.0 [59.0, 61.0]"
    assert len(score_tables.crepe_table(crepe, "mini", "sugarcrepe_pp", "text")) == 3  # no published rows
    differences = score_tables.crepe_differences_table(crepe)
    assert len(differences) == 9
    assert differences.iloc[0][["difference", "swap", "add"]].tolist() == [
        "SaHa - zero-shot: hierarchical",
        "-10.0 [-11.0, -9.0]",
        "–",
    ]


def test_crepe_figures(crepe, tmp_path):
    figure = figures.crepe_figure(crepe, "sugarcrepe", "image")
    assert [axis.get_title() for axis in figure.axes] == ["replace", "swap", "mean"]
    drawn = gallery.crepe_gallery_figure(crepe, tmp_path)
    texts = [text.get_text() for axis in drawn.axes for text in axis.texts]
    assert "replace: no row is wrong" in texts
    assert any("3 of 9 wrong" in text for text in texts)
