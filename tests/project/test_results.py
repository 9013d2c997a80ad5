import pytest

from g2e_lib.project import config
from g2e_lib.project.provenance import Run
from g2e_lib.project.results import Results
from g2e_lib.project.store import write_json


@pytest.fixture
def results(tmp_path, monkeypatch):
    for name in ("RESULTS", "FIGURES", "CACHE"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    for name in (config.RESULTS_VARIABLE, config.FIGURES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "results"


def test_without_a_record_settings_are_those_of_the_profile(results):
    assert Results("smoke").settings("06_sugarcrepe")["crepe_rows"] == 6
    assert Results("reference/smoke").profile == "smoke"
    assert Results("my-own").profile == "mini"
    assert Results("my-own").settings("06_sugarcrepe") == {}
    shown = Results("qwen2-vl-7b").settings("00_setup", known=["model", "world"])
    assert shown == {"model": "Qwen/Qwen2-VL-7B-Instruct", "world": "mmeb"}  # nothing that is common to others


def test_the_record_of_a_run_says_its_settings(results):
    write_json(results / "mine" / "run.json", {"profile": "study", "settings": {"03_training": {"steps": 9}}})
    assert Results("mine").profile == "study"
    assert Results("mine").settings("03_training") == {"steps": 9}
    assert Results("mine").settings("04_ablations") == {}


def test_metrics_are_saved_with_their_provenance(results):
    run = Run({"steps": 9}, model="m", data="d", seed=0, device="cpu", dtype="float32")
    ours = Results("mine")
    assert not ours.has("scores")
    ours.save("scores", {"value": 3}, run, n=5)
    assert ours.has("scores")
    saved = Results("mine").metrics("scores")
    assert saved["value"] == 3
    assert saved["provenance"]["n"] == 5
    assert saved["provenance"]["settings"] == {"steps": 9}
    with pytest.raises(ValueError, match="does not exist: run the notebook that writes it"):
        ours.metrics("others")


def test_a_staging_folder_takes_the_place_of_the_results(results, monkeypatch, tmp_path):
    monkeypatch.setenv(config.RESULTS_VARIABLE, str(tmp_path / "staged"))
    assert Results("mine").folder == tmp_path / "staged"


def test_a_fresh_run_computes_once_and_no_more(results):
    Results("mine").store("scores").json({"k": 1}, lambda: 1)
    write_json(results / "mine" / "run.json", {"settings": {}, "is_fresh": True})
    ours = Results("mine")
    assert ours.store("scores").json({"k": 1}, lambda: 2) == 2
    assert ours.store("scores").json({"k": 1}, lambda: 3) == 2
    assert ours.store("others").folder != ours.store("scores").folder
