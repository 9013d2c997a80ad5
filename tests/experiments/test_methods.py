"""Ways of training, rebuilt from what a notebook recorded."""

from conftest import SMALL
from standin import build_teacher

from g2e_lib.data.download import Selection
from g2e_lib.experiments.benchmarks import GlyphBenchmark, MmebBenchmark, prepare_benchmark
from g2e_lib.experiments.methods import open_methods
from g2e_lib.glyphworld import text_teacher

SETTINGS = {
    "common": {"steps": 2, "pairs_per_step": 4},
    "shown": {"max_length": 300},
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
    monkeypatch.setattr("g2e_lib.project.config.CACHE", tmp_path)
    bench = GlyphBenchmark(SMALL, small_build)
    trained = []
    monkeypatch.setattr(text_teacher, "train_teacher", lambda folder, size: (folder.mkdir(), trained.append(size)))
    monkeypatch.setattr(text_teacher, "judge_teacher", lambda *_: {"value": 50.0})
    laboratory, arms, known = open_methods(bench, SETTINGS, {}, {}, tmp_path)
    assert laboratory.names == ("Crop",)
    assert laboratory.embedding["max_length"] == 300
    assert known["pairs"] == trained[0].pairs == 64
    assert list(arms)[-3:] == ["UniME stage 1", "UniME stage 2 alone", "UniME stage 1 + 2"]
    assert (arms["SaHa"].miner.top_k, arms["SaHa"].miner.pool_mult) == (3, 2)
    assert arms["UniME stage 1 + 2"].start == arms["UniME stage 1"]
    _, again, _ = open_methods(bench, SETTINGS, {}, {}, tmp_path)
    assert again == arms
    assert len(trained) == 1


def test_real_data_and_any_teacher(hub, tmp_path, monkeypatch):
    """Stage 1 on AllNLI's pairs with a sentence-transformers model, stage 2 on MMEB: one step each."""
    monkeypatch.setattr("g2e_lib.project.config.DATA", tmp_path / "mmeb")
    monkeypatch.setattr("g2e_lib.project.config.CACHE", tmp_path)
    build_teacher(tmp_path / "teacher")
    wanted = Selection(("MSCOCO_i2t",), ("MSCOCO_i2t",), parts=("training", "unime"))
    bench, _ = prepare_benchmark("mmeb", SMALL, wanted)
    assert isinstance(bench, MmebBenchmark)
    common = {"steps": 1, "pairs_per_step": 4, "split": bench.split, "limit": 6}
    given = {"common": common, "subsets": [], "teacher": str(tmp_path / "teacher"), "sentence_pairs": 10}
    rows, facts = bench.load()
    laboratory, arms, known = open_methods(bench, {**SETTINGS, **given}, rows, facts, tmp_path)
    assert known["model"] == str(tmp_path / "teacher")
    assert known["recall"]["n"] == 24  # of the split "dev", without repetitions and identical sentences
    both = arms["UniME stage 1 + 2"]
    first, second = (laboratory._config(arm, 0) for arm in (both.start, both))
    assert [len(one.pairs) for config in (first, second) for one in laboratory.subsets(config)[0]] == [10, 6]
    assert set(laboratory.run(both)["right"]) == {"MSCOCO_i2t"}
    assert [len(one.pairs) for one in laboratory.training_subsets()] == [6]
