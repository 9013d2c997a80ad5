"""After embedding and mining for a profile, its notebooks have nothing left to run through the model."""

import pytest

from g2e_lib.data.subsets import load_subsets
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation import negatives, scores
from g2e_lib.experiments import benchmarks as worlds
from g2e_lib.experiments import embed
from g2e_lib.experiments.settings import MiningSettings
from g2e_lib.glyphworld import benchmark
from g2e_lib.miners import Miner
from g2e_lib.project import config
from g2e_lib.project.store import Store, write_json

SMALL = benchmark.Size(queries=12, pairs=30, candidates=10, families=20)
ZERO_SHOT = ["-p", "prompts", "[none, hierarchical, unime]", "-p", "datasets", "[Crop, ColourQA]", "-p", "limit", "5"]
MINING = ["-p", "subsets", "[Crop, ColourQA]", "-p", "top_k", "3"]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(config, "RESULTS", tmp_path / "results")
    bench, _ = worlds.prepare_benchmark("glyphworld", SMALL, worlds.Selection())
    write_json(config.results_folder("mini") / "metrics" / "setup.json", {"benchmark": bench.settings})
    return bench, Store(config.CACHE / "embeddings")


def test_the_notebooks_find_everything_done(prepared, monkeypatch, capsys):
    bench, cache = prepared
    assert embed.main(["mini", "--only", "01", *ZERO_SHOT]) == 0
    assert embed.main(["mini", "--only", "02", *MINING]) == 0
    assert "01_zero_shot: 6 parts are in" in capsys.readouterr().out  # three prompts, two roles
    monkeypatch.setattr("g2e_lib.embedder.last_states", lambda *_: pytest.fail("the model was run"))
    embedder = Embedder.from_pretrained("glyphworld-base")
    rows, facts = bench.load(["Crop", "ColourQA"], 5)
    scores.score_prompts(embedder, ["none", "hierarchical", "unime"], rows, facts, cache)
    subsets = load_subsets(bench.root / "train", ["Crop", "ColourQA"])
    miners = [Miner(name, 3, 3) for name in MiningSettings().miners]
    facts, judges = bench.training_facts(["Crop", "ColourQA"]), {subset.name: bench.judge(subset) for subset in subsets}
    negatives.compare_miners(embedder, subsets, facts, judges, miners, cache)


def test_out_of_memory_is_a_sentence(prepared, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("out of memory with a single input")

    monkeypatch.setattr(embed, "embed_zero_shot", fail)
    assert embed.main(["mini", "--only", "01", *ZERO_SHOT]) == 2
    assert "embed: out of memory with a single input" in capsys.readouterr().err


def test_errors_are_sentences(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(config, "RESULTS", tmp_path)
    assert embed.main(["mini"]) == 2
    assert "setup.json does not exist: run" in capsys.readouterr().err
    assert embed.main(["huge"]) == 2
    assert "unknown profile 'huge'" in capsys.readouterr().err
    assert embed.main(["mini", "-p", "colour", "red"]) == 2
    assert "unknown parameter 'colour'" in capsys.readouterr().err
