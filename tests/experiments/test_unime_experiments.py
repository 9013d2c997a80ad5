"""UniME's arms and ablations, and the comparison of its negatives."""

import pytest

from g2e_lib.experiments import unime_study as u
from g2e_lib.experiments.study import Sentences


@pytest.fixture
def arms(tmp_path):
    sentences = Sentences(tmp_path, ("Paraphrases",), "some/teacher")
    return u.unime_arms(sentences, {"steps": 5}, {"margin": 0.2, "num_negatives": 4})


def test_both_stages_start_where_the_first_one_ends(arms):
    first, second, both = (arms[name] for name in (u.STAGE_1, u.STAGE_2, u.BOTH))
    assert first.sentences.teacher == "some/teacher"
    assert first.settings == {"steps": 5}
    assert second.start is None
    assert both.start == first
    assert both.settings == second.settings == {"negatives": "hard", "margin": 0.2, "num_negatives": 4}
    assert {arm.prompt for arm in arms.values()} == {"unime"}


def test_ablations_change_one_thing(arms):
    both = arms[u.BOTH]
    points = {"margin": [0.0, 2.0], "num_negatives": [8], "negatives": ["easy"], "stages": ["stage 2", "neither"]}
    questions = u.unime_questions(both, points)
    assert [arm.name for arm in questions["margin"]] == ["beta = 0.0", "no filter"]
    assert questions["margin"][1].settings == {**both.settings, "margin": 2.0}
    assert questions["num_negatives"][0].settings == {**both.settings, "num_negatives": 8}
    assert questions["negatives"][0].settings == {**both.settings, "negatives": "easy"}
    assert all(arm.start == both.start for name in ("margin", "negatives") for arm in questions[name])
    alone, neither = questions["stages"]
    assert (alone.start, alone.settings) == (None, both.settings)
    assert (neither.start, neither.settings) == (None, {})
    assert "margin" not in u.unime_questions(both, {"margin": []})
    with pytest.raises(ValueError, match="unknown stage 'three': choose among both, stage 1, stage 2, neither"):
        u.unime_questions(both, {"stages": ["three"]})
    with pytest.raises(ValueError, match="unknown ablation 'colour': choose among margin"):
        u.unime_questions(both, {"colour": [1]})


def log(base):
    return [{"negative_similarity": base, "loss": base + step, "gradient_norm": 2 * base} for step in (1, 2)]


def test_negatives_are_compared_step_by_step():
    arms = {"hard negatives": {"log": [log(0.8), log(1.0)]}, "easy negatives": {"log": [log(0.1), log(0.1)]}}
    found = u.compare_negatives({"questions": {"negatives": list(arms)}, "arms": arms})
    assert found["negatives_means"]["hard"]["loss"]["value"] == pytest.approx(2.4)  # steps 1.9 and 2.9
    difference = found["negatives_differences"]["easy"]["loss"]
    assert (difference["value"], difference["low"], difference["high"]) == pytest.approx((0.8, 0.8, 0.8))
    assert difference["n"] == 2
    assert list(found["negatives"]) == ["hard", "easy"]


def test_unknown_methods_are_named(arms):
    with pytest.raises(ValueError, match="there is no method 'Saha': choose among UniME stage 1"):
        u.trained_panels(None, arms, ["Saha"], [])
    baselines = u.crepe_baselines(["none", "user", "unime"])
    assert baselines[:2] == ["zero-shot: none", "zero-shot: unime"]
    assert baselines[-1] == "SaHa"
