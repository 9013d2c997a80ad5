import json

import pytest

from g2e_lib.glyphworld import pretrain
from g2e_lib.glyphworld.recipe import Recipe, learning_rate_at

SMALL = Recipe(vision_steps=4, vision_images=4, steps=6, conversations=4, warmup_steps=2, decay_steps=2, save_every=2)


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


def test_learning_rate_warms_up_stays_and_decays():
    recipe = Recipe(steps=100, warmup_steps=10, decay_steps=50, learning_rate=1.0)
    assert [learning_rate_at(step, recipe) for step in (0, 9, 30, 50, 75, 99)] == [0.1, 1, 1, 1, 0.5, 0.02]
