"""What goes wrong and is told in a sentence: cases that belong to no one module's tests, or are rare."""

import json
import shutil
import zipfile
from collections import namedtuple
from dataclasses import replace
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from g2e_lib import train as training
from g2e_lib.backbone.checkpoint import checkpoint_folder
from g2e_lib.data import archives, download, fetch
from g2e_lib.data.download import MMEB_EVAL, Selection
from g2e_lib.embedder import Embedder
from g2e_lib.experiments.benchmarks import MmebBenchmark
from g2e_lib.project.config import resolve_model
from g2e_lib.scale import publish
from g2e_lib.train_config import TrainConfig

URL = download.CREPE.format(revision="main", name="add_obj")
TABLE = "CIRR/test-00000-of-00001.parquet"


@pytest.fixture
def no_pause(monkeypatch):
    """Attempts follow each other at once."""
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)


@pytest.fixture
def full_disk(monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage)


# --- the network ---------------------------------------------------------------------------------------------------


def test_nobody_answers(tmp_path, no_pause, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("G2E_MIRROR", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ValueError, match=r"cannot download https://.*add_obj.json \(.*refused.*\): check the network"):
        fetch.fetch(URL, tmp_path / "a.json")


def test_a_connection_that_is_always_cut_keeps_what_has_arrived(hub, hub_folder, tmp_path, no_pause):
    class Always(dict):
        def pop(self, *_):
            return 10

    path = URL.partition("://")[2]
    hub.cuts, content = Always(), (hub_folder / path).read_bytes()
    with pytest.raises(ValueError, match=r"\(the connection was cut\): .* try again, what has arrived is kept"):
        fetch.fetch(URL, tmp_path / "a.json")
    assert not (tmp_path / "a.json").exists()
    assert (tmp_path / "a.json.part").read_bytes() == content[: 10 * fetch.ATTEMPTS]
    hub.cuts = {}
    assert fetch.fetch(URL, tmp_path / "a.json").read_bytes() == content


def test_a_cut_file_of_the_hub_goes_on(hub, hub_folder, tmp_path, monkeypatch):
    original = f"datasets/{MMEB_EVAL}/{TABLE}"
    hub.cuts[original] = 100
    one = fetch.HubFolder(MMEB_EVAL, "main")
    (path,) = one.get([TABLE], tmp_path)
    assert path.read_bytes() == (hub_folder / original).read_bytes()
    assert hub.cuts == {}


def test_a_file_of_another_size_than_the_hub_says(hub, tmp_path):
    one = fetch.HubFolder(MMEB_EVAL, "main")
    one.sizes[TABLE] += 1
    with pytest.raises(ValueError, match="CIRR.* of TIGER-Lab/MMEB-eval arrived damaged and was deleted: download it"):
        one.get([TABLE], tmp_path)
    assert not (tmp_path / TABLE).exists()


@pytest.fixture
def model_hub(hub, tmp_path, monkeypatch):
    """The stand-in for models too: the client reads these when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return hub


def test_a_model_the_hub_does_not_have(model_hub):
    with pytest.raises(ValueError, match=r"cannot get 'org/none' from the hub \(.*404.*\): check the name"):
        checkpoint_folder("org/none")
    assert any("org/none" in path for path in model_hub.requests)


def test_a_model_that_is_not_here_while_the_network_is_switched_off(model_hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"cannot get 'org/none' from the hub \(.*\): .* or give a local folder"):
        checkpoint_folder("org/none")
    assert model_hub.requests == []


# --- disk and archives ---------------------------------------------------------------------------------------------


def test_too_small_a_disk_for_a_file(hub, tmp_path, full_disk):
    with pytest.raises(ValueError, match=r"needs 0.0 GB, but its disk has 0.0 GB free: free some, set G2E_CACHE"):
        fetch.fetch(URL, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_too_small_a_disk_for_what_an_archive_holds(tmp_path, full_disk):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.jpg", b"1")
    with pytest.raises(ValueError, match="its disk has 0.0 GB free: free some"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "new", ["a.jpg"])
    assert not (tmp_path / "new").exists()


def test_junk_is_never_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("x/1.jpg", "x/._1.jpg", "__MACOSX/x/._1.jpg", "__MACOSX/x/2.jpg"):
            archive.writestr(name, name)
    assert archives.unpack(tmp_path / "a.zip", tmp_path, ["x/1.jpg", "x/._1.jpg", "x/2.jpg"]) == 1
    assert (tmp_path / "x" / "1.jpg").read_text() == "x/1.jpg"
    assert [path.name for path in tmp_path.rglob("*.jpg")] == ["1.jpg"]


# --- names ---------------------------------------------------------------------------------------------------------


def test_unknown_names_end_the_command_line_tool(tmp_path, capsys):
    assert download.main(["--root", str(tmp_path), "--datasets", "ImageNet_1K"]) == 2
    assert "download: MMEB has no dataset 'ImageNet_1K': choose among ImageNet-1K" in capsys.readouterr().err
    assert download.main(["verify", "--root", str(tmp_path), "--datasets", "CIRR", "--parts", "sugarcrepe"]) == 2
    assert "lacks eval/CIRR/test-*.parquet, sugarcrepe/replace_obj.json" in capsys.readouterr().err


def test_evaluation_and_training_spell_imagenet_differently():
    bench = MmebBenchmark(Selection(datasets=("ImageNet-1K",), subsets=("ImageNet_1K",)))
    with pytest.raises(ValueError, match="did not ask for training subset 'ImageNet-1K': choose among ImageNet_1K"):
        bench.training_facts(["ImageNet-1K"])
    with pytest.raises(ValueError, match="did not ask for dataset 'ImageNet_1K': choose among ImageNet-1K"):
        bench.load(["ImageNet_1K"])


# --- models --------------------------------------------------------------------------------------------------------


def test_an_embedder_refuses_other_architectures_and_adapters_of_other_bases(small_build, tmp_path):
    from peft import LoraConfig, get_peft_model
    from standin import build_model

    other = shutil.copytree(resolve_model("glyphworld-base"), tmp_path / "llava")
    settings = json.loads((other / "config.json").read_text()) | {"model_type": "llava"}
    (other / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="holds a model of type 'llava', but only 'qwen2_vl'"):
        Embedder.from_pretrained(other)
    (tmp_path / "tiny").mkdir()
    tiny = Embedder.from_pretrained(build_model(tmp_path / "tiny"), device="cpu", dtype="float32").model
    get_peft_model(tiny, LoraConfig(r=2, target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="adapter .*adapter does not fit the base model"):
        Embedder.from_pretrained("glyphworld-base", adapter=tmp_path / "adapter", device="cpu", dtype="float32")


def test_more_processes_than_pairs(small_build, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "Accelerator", lambda **_: SimpleNamespace(num_processes=8))
    config = TrainConfig(str(tmp_path / "run"), str(small_build / "train"), ("Crop",), pairs_per_step=6)
    with pytest.raises(ValueError, match="pairs_per_step 6 is less than the 8 processes: raise it"):
        training.train(config)
    monkeypatch.setattr(training, "Trainer", lambda *_: pytest.fail("not refused"))
    with pytest.raises(pytest.fail.Exception, match="not refused"):
        training.train(replace(config, pairs_per_step=8))
    assert not (tmp_path / "run").exists()


def test_publishing_into_a_folder_that_is_not_empty_uploads_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(publish, "push", lambda *_: pytest.fail("uploaded"))
    (tmp_path / "old").write_text("x")
    arguments = ["--model", "glyphworld-base", "--push", "org/name"]
    for more in ([], ["--adapter-only", "--adapter", resolve_model("glyphworld-base")]):
        assert publish.main([str(tmp_path), *arguments, *more]) == 2
        assert f"publish: {tmp_path} is not empty: choose a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["old"]
