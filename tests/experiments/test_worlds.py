"""The papers' own data behind the same questions as the embedded world's."""

import json
import shutil
from types import SimpleNamespace

import pytest

from g2e_lib.data import download
from g2e_lib.data.download import Selection
from g2e_lib.data.mmeb import SKIPPED
from g2e_lib.data.subsets import load_subsets
from g2e_lib.experiments.benchmarks import GlyphBenchmark, MmebBenchmark, open_benchmark, prepare_benchmark
from g2e_lib.glyphworld import benchmark
from g2e_lib.mining import labelled_subsets
from g2e_lib.project import config

FEW = Selection(datasets=("ImageNet-1K", "CIRR", "MSCOCO_i2t"), subsets=("ImageNet_1K", "CIRR"), parts=("training",))
SMALL = benchmark.Size(queries=12, pairs=30, candidates=10, families=20)


def reopened(bench):
    """What the other notebooks see of it."""
    setup = json.loads(json.dumps({"benchmark": bench.settings}))
    return open_benchmark(SimpleNamespace(metrics=lambda name: setup))


@pytest.fixture
def data(hub, tmp_path, monkeypatch):
    """A data folder with a few subsets, downloaded."""
    monkeypatch.setattr(config, "DATA", tmp_path / "mmeb")
    download.download(config.DATA, FEW)
    return config.DATA


def test_the_real_world_survives_its_settings(data):
    bench, status = prepare_benchmark("mmeb", SMALL, FEW)
    assert "0 of them skipped" in status
    again = reopened(bench)
    assert isinstance(again, MmebBenchmark)
    assert again.identity() == bench.identity()
    rows, facts = again.load()
    assert rows == bench.load()[0]
    assert list(rows) == ["ImageNet-1K", "CIRR", "MSCOCO_i2t"]
    assert facts["ImageNet-1K"]["meta_task"] == "classification"
    assert facts["CIRR"]["queries"] == len(rows["CIRR"]) == 4
    assert again.captions == "MSCOCO_i2t"
    assert str(data) not in json.dumps(bench.settings)


def test_training_subsets_keep_mmebs_spelling_and_know_their_task(data):
    bench, _ = prepare_benchmark("mmeb", SMALL, FEW)
    facts = bench.training_facts()
    assert {name: (one["meta_task"], one["train_pairs"]) for name, one in facts.items()} == {
        "ImageNet_1K": ("classification", 12),
        "CIRR": ("retrieval", 12),
    }
    assert labelled_subsets(facts) == {"ImageNet_1K"}
    assert {"ImageNet_1K", "ImageNet-1K"} < labelled_subsets()
    subsets = load_subsets(bench.root / "train", list(facts), split=bench.split, limit=7)
    assert [len(subset.pairs) for subset in subsets] == [7, 7]
    assert len(subsets[0].targets) == 4  # every target has two owners


def test_the_embedded_world_is_as_before(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE", tmp_path)
    bench, status = prepare_benchmark("glyphworld", SMALL, FEW)
    again = reopened(bench)
    assert again == bench
    assert bench.identity() == benchmark.identity(bench.root)
    assert bench.load(["Crop"], 3) == benchmark.load(bench.root, ["Crop"], 3)
    assert bench.training_facts() == benchmark.training_facts(bench.root)
    assert "every file agrees with the manifest" in status


def spoil(data):
    """Break one query image, one wrong candidate, and one image of a training pair."""
    rows = MmebBenchmark(FEW, root=data).load()[0]["CIRR"]
    pairs = load_subsets(data / "train", ["CIRR"], split=FEW.split)[0].pairs
    spoilt = [rows[0].query.image, rows[1].candidates[2].image, pairs[3].query.image]
    for path in spoilt[:2]:
        path.write_bytes(b"<html>")
    spoilt[2].write_bytes(spoilt[2].read_bytes()[:300])
    return [path.relative_to(data).as_posix() for path in spoilt]


def test_stop_names_them_and_the_remedy(data):
    spoilt = spoil(data)
    with pytest.raises(ValueError, match="3 images are missing or broken, such as .*verified.json.*repair`, or set"):
        prepare_benchmark("mmeb", SMALL, FEW, "stop")
    listed = json.loads((data / download.VERIFIED).read_text())
    assert {name for one in listed.values() for name in one["broken"]} == set(spoilt)


def test_skip_leaves_out_what_needs_them_and_counts(data, caplog):
    whole, spoilt = prepare_benchmark("mmeb", SMALL, FEW)[0], spoil(data)
    before, before_rows = whole.identity(), whole.load()[0]["CIRR"]
    bench, status = prepare_benchmark("mmeb", SMALL, FEW, "skip", is_fresh=True)
    assert "3 of them skipped" in status
    assert bench.settings["skipped"] == 3
    assert bench.identity() != before
    rows = bench.load()[0]["CIRR"]
    assert [row.query for row in rows] == [row.query for row in before_rows[1:]]
    assert len(rows[0].candidates) == len(before_rows[1].candidates) - 1
    assert "CIRR: skipped 1 of 4 rows and 1 candidates" in caplog.text
    pairs = load_subsets(bench.root / "train", ["CIRR"], split=bench.split)[0].pairs
    assert len(pairs) == 11
    assert "CIRR: skipped 1 of 12 pairs" in caplog.text
    used = {i.image for row in rows for i in (row.query, *row.candidates)} | {pair.query.image for pair in pairs}
    assert not used & {data / name for name in spoilt}


def test_profiles_that_share_the_data_do_not_undo_each_others_list(data):
    spoil(data)
    prepare_benchmark("mmeb", SMALL, FEW, "skip", is_fresh=True)
    listed = [json.loads((data / folder / SKIPPED).read_text()) for folder in (".", download.EVAL_IMAGES)]
    fewer = Selection(("MSCOCO_i2t",), parts=())
    prepare_benchmark("mmeb", SMALL, fewer)
    assert [json.loads((data / folder / SKIPPED).read_text()) for folder in (".", download.EVAL_IMAGES)] == listed
    assert len(json.loads((data / download.VERIFIED).read_text())) == 5


def test_repaired_data_are_whole_again(data, hub):
    spoil(data)
    prepare_benchmark("mmeb", SMALL, FEW, "skip", is_fresh=True)
    assert download.repair(data, FEW).is_complete
    bench, _ = prepare_benchmark("mmeb", SMALL, FEW, is_fresh=True)
    assert bench.settings["skipped"] == 0
    assert json.loads((data / SKIPPED).read_text()) == []
    assert len(bench.load()[0]["CIRR"]) == 4


def test_images_are_opened_once(data, monkeypatch):
    prepare_benchmark("mmeb", SMALL, FEW)
    monkeypatch.setattr(download, "open_image", lambda _: pytest.fail("opened again"))
    prepare_benchmark("mmeb", SMALL, FEW)
    shutil.rmtree(data / "images" / "CIRR")
    monkeypatch.setattr(download, "download", lambda *_: None)
    with pytest.raises(pytest.fail.Exception, match="opened again"):  # something changed
        prepare_benchmark("mmeb", SMALL, FEW, "skip")


def test_what_was_not_asked_for(data):
    bench, _ = prepare_benchmark("mmeb", SMALL, FEW)
    with pytest.raises(ValueError, match="notebook 00_setup did not ask for dataset 'GQA': choose among ImageNet-1K"):
        bench.load(["GQA"])
    with pytest.raises(ValueError, match="did not ask for training subset 'WebQA': choose among ImageNet_1K, CIRR"):
        bench.training_facts(["WebQA"])
    with pytest.raises(ValueError, match="unknown world 'mars' or policy 'stop'"):
        prepare_benchmark("mars", SMALL, FEW)
    captionless = MmebBenchmark(Selection(datasets=("CIRR",)))
    with pytest.raises(ValueError, match="image-caption pairs are needed: add MSCOCO_i2t"):
        captionless.captions  # noqa: B018


def test_sugarcrepe(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DATA", tmp_path / "mmeb")
    wanted = Selection(("MSCOCO_i2t",), parts=("sugarcrepe",))
    bench, _ = prepare_benchmark("mmeb", SMALL, wanted)
    sets, identity = bench.crepe()
    assert {name: len(one) for name, one in sets.items()} == {"sugarcrepe": 7, "sugarcrepe_pp": 5}
    assert {len(row.captions) for rows in sets["sugarcrepe_pp"].values() for row in rows} == {2}
    assert all(row.image.is_file() for one in sets.values() for rows in one.values() for row in rows)
    few, other = bench.crepe(2)
    assert [len(rows) for rows in few["sugarcrepe"].values()] == [2] * 7
    assert bench.crepe()[1] == identity != other
    broken = sets["sugarcrepe"]["swap_obj"][0].image
    broken.write_bytes(b"<html>")
    prepare_benchmark("mmeb", SMALL, wanted, "skip", is_fresh=True)
    rows = bench.crepe()[0]["sugarcrepe"]["swap_obj"]
    assert [row.image for row in rows] == [row.image for row in sets["sugarcrepe"]["swap_obj"][1:]]


def test_what_unime_needs(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DATA", tmp_path / "mmeb")
    monkeypatch.setattr(config, "CACHE", tmp_path / "cache")
    wanted = Selection(("MSCOCO_i2t", "MSCOCO_t2i"), parts=("unime",))
    bench, status = prepare_benchmark("mmeb", SMALL, wanted)
    folder, name = bench.sentences()
    (subset,) = load_subsets(folder, [name])
    assert len(subset.pairs) == 24  # two repetitions and one pair of identical sentences are left out
    few, _ = bench.sentences(5)
    drawn = load_subsets(few, [name])[0].pairs
    assert set(drawn) < set(subset.pairs)
    assert len(drawn) == 5
    assert bench.sentences(5)[0] == few
    held_out = bench.held_out_sentences(10)
    assert len(set(held_out)) == 10
    rows = bench.retrieval()
    assert {task: len(some) for task, some in rows.items()} == {
        "short_i2t": 4,
        "short_t2i": 4,
        "long_i2t": 5,
        "long_t2i": 5,
    }
    images = [row.query.image.stem for row in rows["long_i2t"]]
    assert images == ["1", "2", "3", "4", "5"]
    for one, other in zip(rows["long_i2t"], rows["long_t2i"], strict=True):
        assert (one.candidates[0], other.candidates[0]) == (other.query, one.query)
        assert len(set(one.candidates)) == len(set(other.candidates)) == 5
    assert bench.retrieval(2)["long_t2i"][1].query == rows["long_t2i"][1].query
    assert bench.retrieval_name == "MSCOCO of MMEB / Urban1K"
    rows["long_i2t"][2].query.image.write_bytes(b"<html>")
    prepare_benchmark("mmeb", SMALL, wanted, "skip", is_fresh=True)
    assert [row.query.image.stem for row in bench.retrieval()["long_i2t"]] == ["1", "2", "4", "5"]


def test_what_is_missing_for_unime_is_named(data):
    bench = MmebBenchmark(FEW, root=data)
    with pytest.raises(ValueError, match="so there are no sentences: add 'unime' to `parts` of notebook 00"):
        bench.sentences()
    with pytest.raises(ValueError, match="so there are no long captions: add 'unime' to `parts` of notebook 00"):
        bench.retrieval()
    with pytest.raises(ValueError, match="MMEB has no part 'music': choose among training, sugarcrepe, unime"):
        Selection(parts=("music",))


def test_the_embedded_world_gives_the_same_kinds_of_things(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "CACHE", tmp_path)
    bench = GlyphBenchmark(SMALL, tmp_path)
    sets, identity = bench.crepe(2)
    assert {len(rows) for one in sets.values() for rows in one.values()} == {2}
    assert bench.crepe(3)[1] != identity
    folder, name = bench.sentences(4)
    assert len(load_subsets(folder, [name])[0].pairs) == len(bench.held_out_sentences(4)) == 4
    assert set(bench.retrieval(3)) == {"short_i2t", "short_t2i", "long_i2t", "long_t2i"}
    for ask in (bench.crepe, bench.sentences, bench.retrieval):
        with pytest.raises(ValueError, match="scenes without end, so 0 of them cannot be all: give a number above 0"):
            ask(0)
