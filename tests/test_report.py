import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from test_evaluate import FakeEmbedder, rows

from g2e_lib import report
from g2e_lib.evaluate import score_prompts
from g2e_lib.store import Store

INFO = {
    name: {"meta_task": task, "distribution": distribution}
    for name, task, distribution in (
        ("A", "classification", "IND"), ("B", "vqa", "OOD"), ("C", "retrieval", "IND"), ("D", "grounding", "OOD"),
    )
}  # fmt: skip


@pytest.fixture
def metrics(tmp_path):
    datasets = {name: rows(name.lower()) for name in INFO}
    made = score_prompts(FakeEmbedder(), ["none", "user", "system", "hierarchical"], datasets, INFO, Store(tmp_path))
    return json.loads(json.dumps(made))  # as read back from disk


def test_interval_format():
    assert report.interval({"value": -0.04, "low": -1, "high": 1.25}) == "-0.0 [-1.0, 1.2]"


def test_table_1_shows_the_papers_rows_beside_ours_but_not_for_smoke(metrics):
    table = report.zero_shot_table(metrics, "mini")
    assert table[""].tolist()[:2] == ["paper, Qwen2-VL-2B: baseline prompt", "paper, Qwen2-VL-2B: hierarchical prompt"]
    assert table["Overall"].tolist()[:2] == ["13.9", "43.3"]
    assert table["Overall"].tolist()[2] == "100.0 [100.0, 100.0]"
    assert table["n"].tolist()[2:] == ["24"] * 3
    assert not report.zero_shot_table(metrics, "smoke")[""].str.startswith("paper").any()


def test_a_changed_metric_changes_the_tables(metrics):
    before = report.prompt_table(metrics)
    metrics["prompts"]["user"]["groups"]["vqa"]["value"] = 12.34
    after = report.prompt_table(metrics)
    assert after.loc[1, "VQA"].startswith("12.3")
    assert (before != after).sum().sum() == 1


def test_claims_follow_their_rule(metrics):
    gap = {"panels": {name: {"gap": {"centroid_distance": {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9}}}
                      for name, v in (("none", 1.0), ("hierarchical", 0.5))}}  # fmt: skip
    difference = metrics["differences"]["none"]["hierarchical"]
    difference["overall"] |= {"value": 3.0, "low": 0.1, "high": 6.0}
    difference["vqa"] |= {"value": 3.0, "low": -0.1, "high": 6.0}
    metrics["differences"]["hierarchical"]["user"]["overall"] |= {"value": -2.0, "low": -3.0, "high": -1.0}
    claims = report.zero_shot_claims(metrics, gap, "mini").set_index("claim")
    verdicts = claims["verdict"]
    assert verdicts["the hierarchical prompt beats no prompt, overall"] == "reproduced"
    assert verdicts["the hierarchical prompt beats no prompt, vqa"] == "not reproduced at this scale"
    assert verdicts["the system level adds to the user level, overall"] == "reproduced"
    assert claims.loc["the system level adds to the user level, overall", "ours"] == "+2.0 [+1.0, +3.0] points"
    assert verdicts["the hierarchical prompt narrows the modality gap (centroid distance)"] == "reproduced"
    assert claims.loc["the hierarchical prompt beats no prompt, overall", "paper"] == "+29.4 points"
    gap["panels"]["hierarchical"]["gap"]["centroid_distance"]["high"] = 0.95
    assert report.zero_shot_claims(metrics, gap, "mini")["verdict"].tolist()[-1] == "not reproduced at this scale"


def test_tables_are_written_twice_and_round_trip(tmp_path):
    table = pd.DataFrame({"a": ["1.0 [0.5, 2.0]", "x|y"], "n": [3, 4]})
    report.save_table(table, tmp_path, "t")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "t.csv"), table)
    assert "1.0 [0.5, 2.0]" in (tmp_path / "t.md").read_text()


def test_figures_are_the_same_bytes_every_time(metrics, tmp_path):
    for folder in ("one", "two"):
        figure = report.zero_shot_figure(metrics)
        report.save_figure(figure, tmp_path / folder, "bars")
        plt.close(figure)
    for name in ("bars.png", "bars.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_bars_have_the_values_and_intervals(metrics):
    metrics["prompts"]["none"]["groups"]["vqa"] |= {"value": 40.0, "low": 30.0, "high": 55.0}
    figure = report.zero_shot_figure(metrics)
    heights = [bar.get_height() for bar in figure.axes[0].containers[1]]
    assert 40.0 in heights
    segments = np.concatenate([np.array(c.get_segments()).reshape(-1, 2) for c in figure.axes[0].collections])
    assert {30.0, 55.0} <= set(segments[:, 1].round(6))
    plt.close(figure)


def test_every_figure_draws(metrics):
    panel = {"image": [[0, 0], [1, 1]], "text": [[0, 1], [1, 0]]}
    panel["gap"] = {"centroid_distance": {"value": 1.0, "low": 0.9, "high": 1.1, "n": 2}}
    log = [{"phase": phase, "step": step, "loss": 1 / step} for phase in ("vision", "language") for step in (1, 2)]
    for figure in (
        report.dataset_figure(metrics),
        report.modality_gap_figure({"panels": {"none": panel, "hierarchical": panel}}),
        report.learning_curve_figure(log),
    ):
        figure.canvas.draw()
        plt.close(figure)


def test_prompt_tokens_count_visual_tokens():
    lines = [
        {"tokens": ["<|im_start|>", "<|image_pad|> x 4", "\\n"], "is_pooled": False},
        {"tokens": ["a"], "is_pooled": True},
    ]
    table = report.prompt_tokens_table(lines)
    assert table["from token"].tolist() == [0, 6]
    assert table["tokens"].tolist()[1] == "a  <- pooled"


def test_parts_of_the_ablation_draw_as_well(tmp_path):
    datasets = {name: rows(name.lower()) for name in "AB"}
    metrics = score_prompts(FakeEmbedder(), ["none", "e5v"], datasets, INFO, Store(tmp_path))
    assert report.zero_shot_table(metrics, "mini").shape[0] == 3
    assert report.zero_shot_claims(metrics, {"panels": {}}, "mini").empty
    figure = report.zero_shot_figure(metrics)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Classif.", "VQA", "IND", "OOD", "Overall"]
    plt.close(figure)
    assert report.difference_table(metrics)[""].tolist() == ["e5v - none"]
