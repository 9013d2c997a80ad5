"""Tables and figures of training and ablations from small results made by hand."""

import madeup
import matplotlib.pyplot as plt
import pytest

from g2e_lib.report import figures, score_tables
from g2e_lib.report.registry import find
from g2e_lib.report.text import QUESTIONS, display

PAPERS = find("table", "table_2_training").arguments["papers"]


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture
def training():
    return madeup.training()


def test_training_table_stands_beside_the_papers(training):
    table = score_tables.training_table(training, "mini", PAPERS).set_index("")
    assert table.loc["paper, Qwen2-VL 2.2B: SaHa", "Overall"] == "67.1"
    assert table.loc["paper, Qwen2-VL 2.2B: SaHa", "OOD"] == "62.1"
    assert table.loc["mini: SaHa", "seeds"] == "2, sd 0.7"
    assert table.loc["mini: zero-shot", "seeds"] == "1"
    assert table.loc["SaHa - zero-shot", "VQA"] == "+15.0 [+14.0, +16.0]"
    assert not any(name.startswith("paper") for name in score_tables.training_table(training, "smoke", PAPERS)[""])


def test_only_our_own_methods_compete_for_bold(training):
    table = score_tables.training_table(training, "mini", PAPERS)
    best = {table[""].iloc[row] for row, _ in table.attrs["best"]}
    assert best == {"mini: SaHa"}


def test_costs_are_means_over_seeds(training):
    row = score_tables.cost_table(training).set_index("trained with").loc["SaHa"]
    assert (row["steps"], row["pairs a second (median)"], row["last loss (nats)"]) == ("3", "20", "1.500")


def test_figures_of_training_draw_every_method(training):
    curves = figures.curves_figure(training)
    assert [len(axis.lines) for axis in curves.axes] == [2, 2, 2, 2]
    names = [label.get_text() for label in figures.training_figure(training).axes[0].get_yticklabels()]
    assert names == list(map(display, training["methods"]))


def test_datasets_are_drawn_in_and_out_of_distribution(training):
    figure = figures.training_datasets_figure(training)
    assert [[label.get_text() for label in axis.get_yticklabels()] for axis in figure.axes] == [
        ["ColourQA"],
        ["RelationQA"],
    ]
    drawn = {float(one.get_xdata()[0]) for one in figure.axes[1].lines if len(one.get_xdata()) == 1}
    assert {41.0, 51.0, 56.0} <= drawn


def test_ablations():
    metrics = madeup.ablations()
    table = score_tables.ablation_table(metrics).set_index("setting")
    assert list(table["against base"])[:2] == ["-5.0 [-6.0, -4.0]", "base"]
    assert list(score_tables.ablation_verdicts(metrics)["verdict"]) == [
        "lower (one seed)",
        "no difference shown (one seed)",
    ]
    labels = [label.get_text() for label in figures.ablation_figure(metrics, "top_k").axes[0].get_xticklabels()]
    assert labels == ["K = 3", "K = 15 (base)"]
    assert figures.ablation_figure(metrics, "lora_rank") is None  # one setting is no comparison
    assert figures.ablation_figure(metrics, "temperature") is None  # not asked


def test_the_panel_has_every_question_that_compares():
    titles = [axis.get_title() for axis in figures.ablation_panel_figure(madeup.ablations()).axes if axis.get_title()]
    assert titles == [QUESTIONS["top_k"], QUESTIONS["fraction"]]


def test_data_efficiency_stands_at_the_shares():
    axis = figures.data_efficiency_figure(madeup.ablations()).axes[0]
    assert list(axis.get_xticks()) == [10, 100]
    metrics = madeup.ablations()
    metrics["questions"].pop("fraction")
    assert figures.data_efficiency_figure(metrics) is None
