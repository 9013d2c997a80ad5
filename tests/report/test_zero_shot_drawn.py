import json

import matplotlib.pyplot as plt
import pytest
from evaluation.test_evaluate import FakeEmbedder, rows

from g2e_lib.evaluation.scores import score_prompts
from g2e_lib.project.store import Store
from g2e_lib.report import fact_tables, figures, score_tables
from g2e_lib.report.claims import claims_table

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


def test_table_1_shows_the_papers_rows_beside_ours_but_not_for_smoke(metrics):
    table = score_tables.zero_shot_table(metrics, "mini")
    assert table[""].tolist()[:2] == ["paper, Qwen2-VL-2B: baseline prompt", "paper, Qwen2-VL-2B: hierarchical prompt"]
    assert table["Overall"].tolist()[:2] == ["13.9", "43.3"]
    assert table["Overall"].tolist()[2] == "100.0 [100.0, 100.0]"
    assert table["n"].tolist()[2:] == ["24"] * 3
    assert not score_tables.zero_shot_table(metrics, "smoke")[""].str.startswith("paper").any()


def test_a_changed_metric_changes_the_tables(metrics):
    before = score_tables.prompt_table(metrics)
    metrics["prompts"]["user"]["groups"]["vqa"]["value"] = 12.34
    after = score_tables.prompt_table(metrics)
    assert after.loc[1, "VQA"].startswith("12.3")
    assert (before != after).sum().sum() == 1


def test_claims_follow_their_rule(metrics):
    gap = {"panels": {name: {"gap": {"centroid_distance": {"value": v, "low": v - 0.1, "high": v + 0.1, "n": 9}}}
                      for name, v in (("none", 1.0), ("hierarchical", 0.5))}}  # fmt: skip
    difference = metrics["differences"]["none"]["hierarchical"]
    difference["overall"] |= {"value": 3.0, "low": 0.1, "high": 6.0}
    difference["vqa"] |= {"value": 3.0, "low": -0.1, "high": 6.0}
    metrics["differences"]["hierarchical"]["user"]["overall"] |= {"value": -2.0, "low": -3.0, "high": -1.0}
    claims = claims_table({"zero_shot": metrics, "modality_gap": gap}, "mini", "zero_shot").set_index("claim")
    verdicts = claims["verdict"]
    assert verdicts["the hierarchical prompt beats no prompt, overall"] == "reproduced"
    assert verdicts["the hierarchical prompt beats no prompt, vqa"] == "not reproduced at this scale"
    assert verdicts["the system level adds to the user level, overall"] == "reproduced"
    assert claims.loc["the system level adds to the user level, overall", "ours"] == "+2.0 [+1.0, +3.0] points"
    assert verdicts["the hierarchical prompt narrows the modality gap (centroid distance)"] == "reproduced"
    assert claims.loc["the hierarchical prompt beats no prompt, overall", "paper"] == "+29.4 points"
    gap["panels"]["hierarchical"]["gap"]["centroid_distance"]["high"] = 0.95
    assert (
        claims_table({"zero_shot": metrics, "modality_gap": gap}, "mini", "zero_shot")["verdict"].tolist()[-1]
        == "not reproduced at this scale"
    )


def test_every_figure_draws(metrics):
    panel = {"image": [[0, 0], [1, 1]], "text": [[0, 1], [1, 0]]}
    panel["gap"] = {"centroid_distance": {"value": 1.0, "low": 0.9, "high": 1.1, "n": 2}}
    for figure in (
        figures.dataset_figure(metrics),
        figures.modality_gap_figure({"panels": {"none": panel, "hierarchical": panel}}),
    ):
        figure.canvas.draw()
        plt.close(figure)


def test_prompt_tokens_count_visual_tokens():
    lines = [
        {"tokens": ["<|im_start|>", "<|image_pad|> x 4", "\\n"], "is_pooled": False},
        {"tokens": ["a"], "is_pooled": True},
    ]
    table = fact_tables.prompt_tokens_table(lines)
    assert table["from token"].tolist() == [0, 6]
    assert table["tokens"].tolist()[1] == "a  <- pooled"


def test_parts_of_the_ablation_draw_as_well(tmp_path):
    datasets = {name: rows(name.lower()) for name in "AB"}
    metrics = score_prompts(FakeEmbedder(), ["none", "e5v"], datasets, INFO, Store(tmp_path))
    assert score_tables.zero_shot_table(metrics, "mini").shape[0] == 3
    assert claims_table({"zero_shot": metrics, "modality_gap": {"panels": {}}}, "mini", "zero_shot").empty
    figure = figures.zero_shot_figure(metrics)
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["Classif.", "VQA", "IND", "OOD", "Overall"]
    plt.close(figure)
    assert score_tables.difference_table(metrics)[""].tolist() == ["e5v - none"]
