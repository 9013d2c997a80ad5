"""Tables and figures of mining, training and ablations from small results made by hand."""

import matplotlib.pyplot as plt
import pytest

from g2e_lib import training_report as tr


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def estimate(value, spread=1.0, n=100):
    return {"value": value, "low": value - spread, "high": value + spread, "n": n}


def groups(value):
    return {"vqa": estimate(value), "IND": estimate(value), "OOD": estimate(value - 5), "overall": estimate(value)}


def log(seed):
    fields = {"gradient_norm": 2.0, "hardest_negative_similarity": 0.5, "positive_similarity": 0.9}
    fields |= {"seconds": 1.0, "peak_memory_mib": 50.0}
    return [{"step": s, "loss": 3.0 / s + seed, "pairs_per_second": 10.0 * s, **fields} for s in (1, 2, 3)]


def arm(value, seeds=2):
    return {
        "groups": groups(value),
        "datasets": {"ColourQA": estimate(value)},
        "overall_by_seed": [value + s for s in range(seeds)],
        "seconds": [3.0] * seeds,
        "log": [log(s) for s in range(seeds)],
    }


@pytest.fixture
def training():
    arms = {"zero-shot": arm(50, 1), "top-k hard negatives": arm(60), "SaHa": arm(65)}
    arms["zero-shot"] |= {"log": [], "seconds": []}
    differences = {
        "zero-shot": {"top-k hard negatives": groups(10), "SaHa": groups(15)},
        "top-k hard negatives": {"SaHa": {"overall": estimate(-5), "IND": estimate(-5)}},
    }
    for others in differences.values():
        for one in others.values():
            one["overall_by_seed"] = [one["overall"]["value"], 1.0]
    datasets = {"ColourQA": {"meta_task": "vqa", "distribution": "IND", "n": 100, "chance": 1.0}}
    return {"arms": arms, "differences": differences, "datasets": datasets}


def test_training_table_stands_beside_the_papers(training):
    table = tr.training_table(training, "mini").set_index("")
    assert table.loc["paper, Qwen2-VL 2.2B: SaHa", "Overall"] == "67.1"
    assert table.loc["paper, Qwen2-VL 2.2B: SaHa", "OOD"] == "62.1"
    assert table.loc["mini: SaHa", "Overall"] == "65.0 [64.0, 66.0]"
    assert table.loc["mini: SaHa", "seeds"] == "2, sd 0.7"
    assert table.loc["mini: zero-shot", "seeds"] == "1"
    assert table.loc["SaHa - zero-shot", "VQA"] == "+15.0 [+14.0, +16.0]"
    assert not any(name.startswith("paper") for name in tr.training_table(training, "smoke")[""])


def test_training_claims_are_decided_by_their_intervals(training):
    table = tr.training_claims(training, "mini").set_index("claim")
    assert list(table["verdict"]) == ["not reproduced at this scale", "reproduced"]
    assert table.loc["fine-tuning with SaHa beats no training, overall", "paper"] == "+23.8 points"
    assert set(tr.training_claims(training, "smoke")["paper"]) == {"–"}
    training["differences"]["zero-shot"]["SaHa"]["overall_by_seed"] = [15.0]
    assert list(tr.training_claims(training, "mini")["verdict"])[1] == "reproduced (one seed)"
    training["differences"]["zero-shot"]["SaHa"]["overall_by_seed"] = [31.0, -1.0]  # one seed disagrees
    assert list(tr.training_claims(training, "mini")["verdict"])[1] == "not reproduced at this scale"


def test_costs_are_means_over_seeds(training):
    row = tr.cost_table(training).set_index("trained with").loc["SaHa"]
    assert (row["steps"], row["pairs a second (median)"], row["last loss (nats)"]) == ("3", "20", "1.500")


def test_figures_of_training_draw_every_arm(training):
    curves = tr.curves_figure(training)
    assert [len(axis.lines) for axis in curves.axes] == [2, 2, 2, 2]
    assert [label.get_text() for label in tr.training_figure(training).axes[0].get_yticklabels()][::-1] == list(
        training["arms"]
    )


@pytest.fixture
def mining():
    def miner(value, hardness):
        kinds = {kind: estimate(value) for kind in ("anchor", "trained", "masked")}
        facts = {"rows": 9, "rows_of": 10, "clusters": 3, "mean_size": 3.0, "positive": 0.9, "hardness": hardness}
        subset = {**facts, **kinds, "targets": 5}
        return {
            **facts,
            "passes": 2.0,
            "seconds": 0.5,
            "subsets": {"Crop": subset},
            "groups": {"other": kinds, "all": kinds},
        }

    return {
        "groups": {"other": ["Crop"], "all": ["Crop"]},
        "miners": {"topk": miner(6, 0.8), "saha": miner(2, 0.7)},
        "differences": {
            "random": {"all": estimate(9)},
            "topk": {"all": estimate(4), "other": estimate(0, 0)},
        },
    }


def test_mining_tables(mining):
    table = tr.miners_table(mining).set_index("miner")
    assert table.loc["saha", "in the whole item (%)"] == "2.0 [1.0, 3.0]"
    assert table.loc["saha", "rows used (%)"] == "90.0"
    assert list(tr.false_negatives_table(mining)["subset"]) == ["Crop", "mean of 1: other", "mean of 1: all"]
    assert tr.clusters_table(mining).loc[0, "pairs a cluster"] == "3.0"
    claims = tr.mining_claims(mining)
    assert list(claims["verdict"]) == ["reproduced", "no difference: neither has any"]
    assert len(tr.false_negatives_figure(mining).axes) == 2


def test_steps_are_drawn_and_told():
    step = {"target": 3, "target_cosine": 0.9, "owner": 7, "owner_cosine": 0.5, "owner_text": "who?", "is_right": True}
    step |= {"target_text": "sun", "target_image": "", "fate": "too similar in query space"}
    steps = [step, {**step, "owner": -1, "fate": "own positive"}]
    table = tr.steps_table(steps)
    assert list(table["owner"]) == ["7", "–"]
    assert list(table["in truth a right answer"]) == ["yes", "yes"]
    titles = [axis.get_title() for axis in tr.steps_figure({"text": "q", "image": ""}, steps).axes]
    assert titles[1:3] == ["1. dropped\nin truth a right answer", "2. own positive"]


def test_ablations(tmp_path):
    arms = {"SaHa": arm(60, 1), "K = 3": arm(55, 1), "K = 15": arm(60, 1)}
    differences = {"SaHa": {"K = 3": groups(-5), "K = 15": {**groups(0), "overall": estimate(0, 0)}}}
    differences["SaHa"]["K = 3"]["overall_by_seed"] = [-5.0]
    differences["SaHa"]["K = 15"]["overall_by_seed"] = [0.0]
    metrics = {"arms": arms, "differences": differences, "questions": {"top_k": ["K = 3", "K = 15"]}}
    metrics |= {"base": "SaHa", "base_names": ["SaHa", "K = 15"]}
    table = tr.ablation_table(metrics).set_index("setting")
    assert list(table["against base"]) == ["-5.0 [-6.0, -4.0]", "base"]
    assert list(tr.ablation_verdicts(metrics)["verdict"]) == ["lower (one seed)"]
    tr.save_ablation_figures(metrics, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"ablation_top_k.png", "ablation_top_k.svg"}
