"""Ways of training, rebuilt from what a notebook recorded."""

import pytest

from g2e_lib.glyphworld import benchmark, text_teacher
from g2e_lib.glyphworld.methods import embedded_root, open_methods

SETTINGS = {
    "common": {"steps": 2, "pairs_per_step": 4},
    "subsets": ["Crop"],
    "top_k": 3,
    "pool_mult": 2,
    "teacher": text_teacher.EMBEDDED,
    "teacher_pairs": 64,
    "sentence_pairs": 20,
    "first": {"steps": 1},
    "second": {"margin": 0.2},
}


def test_the_same_settings_give_the_same_arms(small_build, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(text_teacher, "train_teacher", lambda folder, size: (folder.mkdir(), trained.append(size)))
    monkeypatch.setattr(text_teacher, "judge_teacher", lambda *_: {"value": 50.0})
    laboratory, arms, known = open_methods(small_build, SETTINGS, {}, {}, tmp_path)
    assert laboratory.names == ("Crop",)
    assert known["pairs"] == trained[0].pairs == 64
    assert list(arms)[-3:] == ["UniME stage 1", "UniME stage 2 alone", "UniME stage 1 + 2"]
    assert (arms["SaHa"].miner.top_k, arms["SaHa"].miner.pool_mult) == (3, 2)
    assert arms["UniME stage 1 + 2"].start == arms["UniME stage 1"]
    _, again, _ = open_methods(small_build, SETTINGS, {}, {}, tmp_path)
    assert again == arms
    assert len(trained) == 1


def test_real_data_are_refused(small_build, monkeypatch, tmp_path):
    monkeypatch.setattr("g2e_lib.config.CACHE", tmp_path)
    size = {"queries": 2, "pairs": 2, "candidates": 3, "families": 10, "views": 1}
    assert (embedded_root(size) / benchmark.MANIFEST).is_file()
    with pytest.raises(ValueError, match="UniME is trained and compared in the embedded world only: use profile mini"):
        embedded_root({"world": "mmeb", "wanted": {}, "policy": "stop"})
