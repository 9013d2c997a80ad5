import json

import pytest

from g2e_lib.glyphworld.pretraining import pretrain
from g2e_lib.glyphworld.pretraining.recipe import Recipe, learning_rate_at

SMALL = Recipe(vision_steps=4, vision_images=4, steps=6, conversations=4, schedule=((0, 1e-3), (6, 0.0)), save_every=2)


def test_a_killed_run_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TOKENIZER_SAMPLE", 200)
    straight = pretrain.pretrain(SMALL, tmp_path / "straight")
    real, calls = pretrain.train_step, []

    def dies(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pretrain, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(SMALL, tmp_path / "killed")
    monkeypatch.setattr(pretrain, "train_step", real)
    resumed = pretrain.pretrain(SMALL, tmp_path / "killed")
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    facts, log = pretrain.read_training_record(resumed)
    assert facts["recipe"]["steps"] == 6
    assert [r["step"] for r in log if r["phase"] == "language"] == [2, 4, 6]
    json.dumps(facts)


def test_no_training_record(tmp_path):
    with pytest.raises(ValueError, match="has no training.jsonl: it is not a GlyphWorld base model"):
        pretrain.read_training_record(tmp_path)


# --- the model that ships ------------------------------------------------------------------------------------------


def test_learning_rate_follows_its_points():
    recipe = Recipe(schedule=((-1, 0.0), (9, 1.0), (50, 1.0), (100, 0.0)))
    assert [learning_rate_at(step, recipe) for step in (0, 9, 30, 75, 100)] == [0.1, 1, 1, 0.5, 0]
