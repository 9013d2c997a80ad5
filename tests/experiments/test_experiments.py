"""Arms, their memory, and their comparison."""

import gc

import numpy as np
import pytest

from g2e_lib.evaluation.statistics import estimate
from g2e_lib.experiments import study as experiments
from g2e_lib.experiments.study import Arm, Laboratory, ablation_arms, compare_arms, main_arms, run_ablations
from g2e_lib.glyphworld import benchmark
from g2e_lib.miners import Miner
from g2e_lib.train import Trainer

COMMON = {"steps": 2, "pairs_per_step": 6, "chunk_size": 50, "learning_rate": 1e-3, "warmup_steps": 0}


@pytest.fixture
def laboratory(small_build, tmp_path):
    rows, facts = benchmark.load(small_build, ["ObjectName", "CaptionT2I"], limit=4)
    trained = benchmark.training_facts(small_build, ["ObjectName", "Crop"])
    return Laboratory(small_build / "train", trained, rows, facts, tmp_path, COMMON)


def test_an_arm_runs_once(laboratory, monkeypatch):
    arm = Arm("SaHa", miner=Miner("saha", 2))
    first = laboratory.run(arm)
    assert {name: len(answers) for name, answers in first["right"].items()} == {"ObjectName": 4, "CaptionT2I": 4}
    assert [record["step"] for record in first["log"]] == [1, 2]
    monkeypatch.setattr(experiments, "train", None)  # would fail if it were called
    assert laboratory.run(Arm("another name", miner=Miner("saha", 2))) == first
    with pytest.raises(TypeError):
        laboratory.run(arm, seed=1)
    with pytest.raises(TypeError):
        laboratory.run(Arm("SaHa", miner=Miner("saha", 2), settings={"temperature": 0.5}))


def test_nothing_of_a_training_stays_in_memory(laboratory):
    """A trainer refers to itself through its loss; on a GPU its model would stay beside the next one's."""
    laboratory.train(Arm("in-batch"))
    assert not [one for one in gc.get_objects() if isinstance(one, Trainer)]


def test_memory_is_no_part_of_what_a_run_is(laboratory):
    """Lowering it after running out of memory goes on with the same run."""
    arm = Arm("in-batch")
    key = laboratory._key(arm, 0)
    for name, value in (("chunk_size", 2), ("save_every", 1), ("report_to", "tensorboard")):
        laboratory.common[name] = value
        assert laboratory._key(arm, 0) == key
    laboratory.common["steps"] = 3
    assert laboratory._key(arm, 0) != key


def test_zero_shot_is_no_training(laboratory):
    assert "log" not in laboratory.zero_shot("hierarchical")


def record(right, loss=1.0):
    return {"right": right, "log": [{"step": 1, "loss": loss}], "seconds": 1.0}


def test_comparison_by_hand(laboratory):
    rows, facts = laboratory.rows, laboratory.facts
    worse = record({"ObjectName": "0101", "CaptionT2I": "0000"})
    better = [
        record({"ObjectName": "1111", "CaptionT2I": "0000"}),
        record({"ObjectName": "1111", "CaptionT2I": "1100"}),
    ]
    result = compare_arms({"a": [worse], "b": better}, rows, facts, ["a"])
    assert result["arms"]["a"]["groups"]["overall"]["value"] == 25
    assert result["arms"]["b"]["groups"]["overall"]["value"] == 62.5
    assert result["arms"]["b"]["overall_by_seed"] == [50, 75]
    assert result["differences"]["a"]["b"]["overall"]["value"] == 37.5
    assert result["differences"]["a"]["b"]["overall_by_seed"] == [25, 50]
    expected = estimate({"CaptionT2I": np.array([0.5, 0.5, 0, 0])})
    assert result["arms"]["b"]["datasets"]["CaptionT2I"] == vars(expected)


def test_ablations_know_their_base(laboratory, monkeypatch):
    base = Arm("SaHa", miner=Miner("saha", 3))
    questions = ablation_arms(base.miner, {"structure": ["SaHa", "no clusters"], "top_k": [3, 5]}, 8)
    losses = {}

    def run(arm, seed):
        key = str((arm.prompt, arm.miner, arm.settings))
        return record({"ObjectName": "0101", "CaptionT2I": "0000"}, losses.setdefault(key, len(losses)))

    monkeypatch.setattr(laboratory, "run", run)
    metrics = run_ablations(laboratory, base, questions, seeds=1)
    assert metrics["base_names"] == ["SaHa", "K = 3"]
    assert metrics["questions"] == {"structure": ["SaHa", "no clusters"], "top_k": ["K = 3", "K = 5"]}


def test_arms_change_one_thing():
    base = Miner("saha", 15, 3)
    arms = ablation_arms(base, {"lora_rank": [2], "prompt": ["none"], "structure": ["no mining"], "fraction": [0.5]}, 8)
    assert arms["lora_rank"] == [Arm("rank 2", miner=base, settings={"lora_rank": 2, "lora_alpha": 16})]
    assert arms["prompt"] == [Arm("prompt none", prompt="none", miner=base)]
    assert arms["structure"] == [Arm("no mining")]
    assert arms["fraction"] == [Arm("50 % of pairs", miner=base, settings={"fraction": 0.5})]
    assert [arm.miner and arm.miner.method for arm in main_arms(15, 3)] == [None, None, "topk", "saha"]
    with pytest.raises(ValueError, match="unknown ablation 'colour': choose among structure"):
        ablation_arms(base, {"colour": [1]}, 8)
    with pytest.raises(ValueError, match="unknown structure 'no prompt': choose among SaHa"):
        ablation_arms(base, {"structure": ["no prompt"]}, 8)
