"""Tables and figures of mining from small results made by hand."""

import madeup
import matplotlib.pyplot as plt
import numpy as np
import pytest

from g2e_lib.report import fact_tables, figures, gallery


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_mining_tables():
    mining = madeup.mining()
    table = fact_tables.miners_table(mining).set_index("miner")
    assert table.loc["saha", "in the whole item (%)"] == "2.0 [1.0, 3.0]"
    assert table.loc["saha", "rows used (%)"] == "90.0"
    by_subset = fact_tables.false_negatives_table(mining)
    assert list(by_subset["subset"]) == ["Crop", "mean of 1: other", "mean of 1: all"]
    assert by_subset.attrs["best"] == [[0, "saha"], [1, "saha"], [2, "saha"]]  # the lowest
    assert fact_tables.clusters_table(mining).loc[0, "pairs a cluster"] == "3.0"


def test_miners_stand_where_they_belong():
    figure = figures.tradeoff_figure(madeup.mining())
    places = {(float(x), float(y)) for line in figure.axes[0].lines for x, y in line.get_xydata()}
    assert {(0.8, 6.0), (0.7, 2.0)} <= places
    assert len(figures.false_negatives_figure(madeup.mining()).axes[0].containers) >= 2


def test_steps_are_drawn_and_told(tmp_path):
    step = {"target": 3, "target_cosine": 0.9, "owner": 7, "owner_cosine": 0.5, "is_right": True, "target_text": "sun"}
    step |= {"owner_text": "task: who?", "target_image": "", "fate": "too similar in query space"}
    seen = [step, {**step, "owner": -1, "fate": "own positive"}]
    unseen = {**step, "owner": -1, "fate": "not looked at", "is_right": False}
    example = {"anchor": {"text": "task: q", "image": ""}, "steps": [*seen, *[unseen] * 5]}
    table = fact_tables.steps_table(example)
    assert list(table["owner"])[:2] == ["7", "–"]
    assert list(table["in truth a right answer"])[:3] == ["yes", "yes", "no"]
    axes = gallery.steps_figure(example, tmp_path, unseen=2).axes
    titles = [axis.get_title() for axis in axes if axis.get_visible()]
    assert titles == [
        "the query",
        "1. dropped\n(in truth right)",
        "2. own positive",
        "3. not looked at",
        "4. not looked at",
    ]
    assert axes[1].get_xlabel().startswith("owner: who?")  # the task is not told again


def test_histograms_are_shares_of_their_kind():
    counts = {"positive": [0, 0, 4], "hard negative": [1, 3, 0], "false negative": [0, 0, 0]}
    histograms = {"edges": [0.0, 0.5, 0.75, 1.0], "miners": {"saha": counts}}
    figure = figures.histograms_figure(histograms)
    steps = [patch.get_data().values for patch in figure.axes[0].patches]
    np.testing.assert_allclose(steps, [[0, 0, 100], [25, 75, 0]])
    row = fact_tables.histograms_table(histograms).iloc[0]
    assert (row["hard negative: mean"], row["hard negative: n"], row["false negative: mean"]) == ("0.53", 4, "–")
