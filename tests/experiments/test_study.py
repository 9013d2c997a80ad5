"""Methods, what a study remembers of them, and their comparison."""

import gc
from dataclasses import replace

import numpy as np
import pytest
from conftest import SMALL

from g2e_lib.evaluation.statistics import estimate
from g2e_lib.experiments import ablations, training
from g2e_lib.experiments import study as studies
from g2e_lib.experiments.benchmarks import GlyphBenchmark
from g2e_lib.experiments.settings import AblationSettings, TrainingSettings
from g2e_lib.experiments.study import Method, Study, main_methods
from g2e_lib.miners import Miner
from g2e_lib.project import config
from g2e_lib.project.results import Results
from g2e_lib.train import Trainer

FEW = TrainingSettings(
    steps=2, pairs_per_step=6, chunk_size=50, warmup_steps=0, seeds=1, limit=4,
    datasets=["ObjectName", "CaptionT2I"], subsets=["ObjectName", "Crop"],
)  # fmt: skip


@pytest.fixture
def study(small_build, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE", tmp_path)
    monkeypatch.setattr(config, "RESULTS", tmp_path / "results")
    return Study(Results("mini"), GlyphBenchmark(SMALL, small_build), FEW)


def test_a_method_runs_once(study, monkeypatch):
    method = Method("saha", miner=Miner("saha", 2))
    first = study.run(method)
    assert {name: len(answers) for name, answers in first["right"].items()} == {"ObjectName": 4, "CaptionT2I": 4}
    assert [record["step"] for record in first["log"]] == [1, 2]
    monkeypatch.setattr(studies, "train", None)  # would fail if it were called
    assert study.run(Method("another key", miner=Miner("saha", 2))) == first
    with pytest.raises(TypeError):
        study.run(method, seed=1)
    with pytest.raises(TypeError):
        study.run(replace(method, settings={"temperature": 0.5}))


def test_nothing_of_a_training_stays_in_memory(study):
    """A trainer refers to itself through its loss; on a GPU its model would stay beside the next one's."""
    study.train(Method("in_batch"))
    assert not [thing for thing in gc.get_objects() if isinstance(thing, Trainer)]


def test_memory_is_no_part_of_what_a_run_is(study):
    """Lowering it after running out of memory goes on with the same run."""
    method = Method("in_batch")
    key = study._key(method, 0)
    for name, value in (("chunk_size", 2), ("save_every", 1), ("report_to", "tensorboard")):
        study.common[name] = value
        assert study._key(method, 0) == key
    study.common["steps"] = 3
    assert study._key(method, 0) != key


def test_a_fresh_study_trains_once(study, monkeypatch):
    method, fresh = Method("in_batch"), Results("mini")
    monkeypatch.setattr(Results, "is_fresh", True)
    log = study.train(method).parent / "log.jsonl"
    before = log.stat().st_mtime_ns
    Study(fresh, study.bench, FEW, retrains=False).train(method)
    assert log.stat().st_mtime_ns == before
    again = Study(fresh, study.bench, FEW)
    again.train(method)
    after = log.stat().st_mtime_ns
    assert after > before
    again.train(method)
    assert log.stat().st_mtime_ns == after


def test_zero_shot_is_no_training(study):
    assert "log" not in study.zero_shot("hierarchical")


def record(right, loss=1.0):
    return {"right": right, "log": [{"step": 1, "loss": loss}], "seconds": 1.0}


def test_comparison_by_hand(study):
    worse = {"right": {"ObjectName": "0101", "CaptionT2I": "0000"}}
    better = [
        record({"ObjectName": "1111", "CaptionT2I": "0000"}),
        record({"ObjectName": "1111", "CaptionT2I": "1100"}),
    ]
    result = study.compare({"a": [worse], "b": better}, ["a"])
    assert result["methods"]["a"]["groups"]["overall"]["value"] == 25
    assert result["methods"]["b"]["groups"]["overall"]["value"] == 62.5
    assert result["methods"]["b"]["overall_by_seed"] == [50, 75]
    assert result["differences"]["a"]["b"]["overall"]["value"] == 37.5
    assert result["differences"]["a"]["b"]["overall_by_seed"] == [25, 50]
    expected = estimate({"CaptionT2I": np.array([0.5, 0.5, 0, 0])})
    assert result["methods"]["b"]["datasets"]["CaptionT2I"] == vars(expected)
    assert result["methods"]["b"]["right"] == {"ObjectName": ["1111", "1111"], "CaptionT2I": ["0000", "1100"]}
    assert (result["methods"]["a"]["log"], len(result["methods"]["b"]["log"])) == ([], 2)


ASKED = AblationSettings(
    base_top_k=3, structure=["saha", "no_clusters"], top_k=[3, 5], pool_mult=[], temperature=[], duplicates=[],
    prompt=[], lora_rank=[], fraction=[],
)  # fmt: skip


def test_ablations_know_their_base(study, monkeypatch):
    losses = {}

    def run(method, seed):
        key = str((method.prompt, method.miner, method.settings))
        return record({"ObjectName": "0101", "CaptionT2I": "0000"}, losses.setdefault(key, len(losses)))

    monkeypatch.setattr(study, "run", run)
    found = ablations.run(study.results, ASKED, study)
    assert found["base_names"] == ["base", "structure=saha", "top_k=3"]
    assert found["questions"] == {
        "structure": ["structure=saha", "structure=no_clusters"],
        "top_k": ["top_k=3", "top_k=5"],
    }
    stored = study.results.metrics("ablations")
    assert stored["provenance"]["n"] == 8
    assert list(stored["differences"]) == ["base"]


def test_points_change_one_thing():
    changed = {"lora_rank": [2], "prompt": ["none"], "structure": ["no_mining", "no_second_phase"], "fraction": [0.5]}
    settings = replace(ASKED, base_top_k=15, top_k=[], duplicates=[False], temperature=[0.05], **changed)
    base, questions = Miner("saha", 15, 3), ablations.questions(settings)
    adapter = {"lora_rank": 2, "lora_alpha": 16}
    assert questions["lora_rank"] == [Method("lora_rank=2", miner=base, settings=adapter)]
    assert questions["prompt"] == [Method("prompt=none", prompt="none", miner=base)]
    assert questions["structure"] == [
        Method("structure=no_mining"),
        Method("structure=no_second_phase", miner=replace(base, use_second_phase=False)),
    ]
    assert questions["fraction"] == [Method("fraction=0.5", miner=base, settings={"fraction": 0.5})]
    assert questions["duplicates"] == [Method("duplicates=False", miner=base, settings={"masks_duplicates": False})]
    assert questions["temperature"] == [Method("temperature=0.05", miner=base, settings={"temperature": 0.05})]
    assert set(questions) == {*changed, "duplicates", "temperature"}
    with pytest.raises(ValueError, match="unknown structure 'no_prompt': choose among saha"):
        ablations.questions(replace(ASKED, structure=["no_prompt"]))


def test_the_main_methods():
    methods = main_methods(TrainingSettings(top_k=15, pool_mult=3))
    assert list(methods) == ["in_batch_no_prompt", "in_batch", "topk", "saha"]
    assert [method.miner and method.miner.method for method in methods.values()] == [None, None, "topk", "saha"]


def test_training_stores_what_it_compares(study, monkeypatch):
    monkeypatch.setattr(study, "run", lambda method, seed: record({"ObjectName": "0101", "CaptionT2I": "0011"}))
    training.run(study.results, FEW, study)
    stored = study.results.metrics("training")
    assert list(stored["methods"]) == ["zero_shot", "in_batch_no_prompt", "in_batch", "topk", "saha"]
    assert list(stored["differences"]["topk"]) == ["saha"]
    assert stored["provenance"]["settings"]["steps"] == 2
    assert stored["provenance"]["settings"]["datasets"] == ["ObjectName", "CaptionT2I"]
