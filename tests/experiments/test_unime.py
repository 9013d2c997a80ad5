"""UniME's methods and ablations, the comparison of its negatives, and what needs the same models."""

from dataclasses import replace

import pytest
from conftest import SMALL
from standin import build_teacher

from g2e_lib.data.download import Selection
from g2e_lib.experiments import composition, unime
from g2e_lib.experiments.benchmarks import GlyphBenchmark, prepare_benchmark
from g2e_lib.experiments.settings import CompositionSettings, UnimeSettings
from g2e_lib.experiments.study import Sentences
from g2e_lib.glyphworld import text_teacher
from g2e_lib.project import config
from g2e_lib.project.results import Results
from g2e_lib.project.store import write_json

FEW = UnimeSettings(
    steps=2, pairs_per_step=4, max_length=300, subsets=["Crop"], top_k=3, pool_mult=2, teacher_pairs=64,
    sentence_pairs=20, first_steps=1, first_pairs=4, margin=0.2, num_negatives=4,
)  # fmt: skip


@pytest.fixture
def results(tmp_path, monkeypatch):
    """Those of a new run, with caches of its own."""
    for name in ("CACHE", "RESULTS", "FIGURES"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    monkeypatch.setattr(config, "DATA", tmp_path / "mmeb")
    return Results("mini")


def prepared(results, bench):
    write_json(results.folder / "metrics" / "setup.json", {"benchmark": bench.settings})


@pytest.fixture
def methods(tmp_path):
    return unime.unime_methods(FEW, Sentences(tmp_path, ("Paraphrases",), "some/teacher"))


def test_both_stages_start_where_the_first_one_ends(methods):
    assert list(methods) == ["unime_1", "unime_2", "unime_1_2"]
    first, second, both = methods.values()
    assert first.sentences.teacher == "some/teacher"
    assert (first.settings["steps"], first.settings["temperature"]) == (1, 0.1)
    assert (second.start, both.start) == (None, first)
    assert both.settings == second.settings == {"negatives": "hard", "margin": 0.2, "num_negatives": 4}
    assert {method.prompt for method in methods.values()} == {"unime"}


def test_ablations_change_one_thing(methods):
    both, first = methods["unime_1_2"], methods["unime_1"]
    asked = {"margin": [0.0, 2.0], "num_negatives": [8], "negatives": ["easy"]}
    asked["stages"] = ["both", "stage_1", "stage_2", "neither"]
    questions = unime.questions(both, replace(FEW, **{f"ablate_{name}": values for name, values in asked.items()}))
    assert [point.key for point in questions["margin"]] == ["margin=0.0", "margin=2.0"]
    assert questions["margin"][1].settings == {**both.settings, "margin": 2.0}
    assert questions["num_negatives"][0].settings == {**both.settings, "num_negatives": 8}
    assert questions["negatives"][0].settings == {**both.settings, "negatives": "easy"}
    assert all(point.start == both.start for name in ("margin", "negatives") for point in questions[name])
    same, one, two, neither = questions["stages"]
    assert (same, one) == (replace(both, key="stages=both"), replace(first, key="stages=stage_1"))
    assert (two.start, two.settings) == (None, both.settings)
    assert (neither.start, neither.settings) == (None, {})
    assert "margin" not in unime.questions(both, replace(FEW, ablate_margin=[]))
    with pytest.raises(ValueError, match="unknown stage 'three': choose among both, stage_1, stage_2, neither"):
        unime.questions(both, replace(FEW, ablate_stages=["three"]))


def log(base):
    return [{"negative_similarity": base, "loss": base + step, "gradient_norm": 2 * base} for step in (1, 2)]


def test_negatives_are_compared_step_by_step():
    logs = {"negatives=hard": {"log": [log(0.8), log(1.0)]}, "negatives=easy": {"log": [log(0.1), log(0.1)]}}
    found = unime.compare_negatives({"questions": {"negatives": list(logs)}, "methods": logs})
    assert found["negatives_means"]["hard"]["loss"]["value"] == pytest.approx(2.4)  # steps 1.9 and 2.9
    difference = found["negatives_differences"]["easy"]["loss"]
    assert (difference["value"], difference["low"], difference["high"]) == pytest.approx((0.8, 0.8, 0.8))
    assert difference["n"] == 2
    assert list(found["negatives"]) == ["hard", "easy"]
    assert unime.compare_negatives({"questions": {}, "methods": {}})["negatives"] == {}


def test_unknown_methods_are_named(methods):
    with pytest.raises(ValueError, match="unknown method 'Saha': choose among unime_1"):
        unime.trained_panels(None, methods, ["Saha"], [])


def test_the_same_settings_give_the_same_methods(small_build, results, monkeypatch):
    prepared(results, GlyphBenchmark(SMALL, small_build))
    trained = []
    monkeypatch.setattr(text_teacher, "train_teacher", lambda folder, size: (folder.mkdir(), trained.append(size)))
    monkeypatch.setattr(text_teacher, "judge_teacher", lambda *_: {"value": 50.0})
    study, methods, teacher = unime.open_study(results, FEW)
    assert list(study.trained_on) == ["Crop"]
    assert teacher["pairs"] == trained[0].pairs == 64
    assert list(methods)[-3:] == ["unime_1", "unime_2", "unime_1_2"]
    assert (methods["saha"].miner.top_k, methods["saha"].miner.pool_mult) == (3, 2)
    assert methods["unime_1_2"].start == methods["unime_1"]
    monkeypatch.setattr(Results, "settings", lambda self, stem, known: {**FEW.record(), "launch": "other.yaml"})
    _, models = composition.open_models(results, CompositionSettings(prompts=["none", "user", "unime"]))
    assert unime.open_study(results, FEW)[1] == methods
    assert len(trained) == 1
    assert list(models)[:3] == ["zero_shot:none", "zero_shot:user", "zero_shot:unime"]
    assert [key for key in methods if key not in models] == ["unime_2"]
    baselines = composition.baselines(["none", "user", "unime"])
    assert baselines == ["zero_shot:none", "zero_shot:unime", "in_batch_no_prompt", "in_batch", "saha"]


def test_real_data_and_any_teacher(hub, results, tmp_path):
    """Stage 1 on AllNLI's pairs with a sentence-transformers model, stage 2 on MMEB: one step each."""
    build_teacher(tmp_path / "teacher")
    selection = Selection(("MSCOCO_i2t",), ("MSCOCO_i2t",), parts=("training", "unime"))
    bench, _ = prepare_benchmark("mmeb", SMALL, selection)
    prepared(results, bench)
    given = {"steps": 1, "train_limit": 6, "subsets": [], "teacher": str(tmp_path / "teacher"), "sentence_pairs": 10}
    study, methods, teacher = unime.open_study(results, replace(FEW, **given))
    assert teacher["model"] == str(tmp_path / "teacher")
    assert teacher["recall"]["n"] == 24  # of the split "dev", without repetitions and identical sentences
    both = methods["unime_1_2"]
    runs = [study._config(method, 0) for method in (both.start, both)]
    assert [len(subset.pairs) for run in runs for subset in study._pairs(run)[0]] == [10, 6]
    assert set(study.run(both)["right"]) == {"MSCOCO_i2t"}
    assert [len(subset.pairs) for subset in study.training_subsets()] == [6]
