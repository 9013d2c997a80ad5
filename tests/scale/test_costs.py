import builtins

import pytest

from g2e_lib import __main__ as command_line
from g2e_lib.data import download
from g2e_lib.project import notebooks, runner
from g2e_lib.project.config import load_profile
from g2e_lib.scale import costs


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def settings(profile, *changes, only=None):
    defaults = command_line.setting_defaults()
    known = {stem: defaults.get(stem, {}) for stem in notebooks.select_notebooks(None, only, profile)}
    chosen, given = load_profile(profile), notebooks.parse_parameters(changes, known)
    return {stem: known[stem] | chosen[stem] | given[stem] for stem in known}


@pytest.mark.parametrize("profile", ["mini", "smoke"])
def test_small_profiles_cost_nothing_worth_saying(profile, capsys):
    assert costs.estimate(settings(profile)) == []
    assert costs.confirm(settings(profile), asks=True)
    assert capsys.readouterr().out == ""


def test_by_hand():
    few = [("datasets", "[CIRR, MSCOCO_i2t]"), ("limit", "100"), ("prompts", "[none, hierarchical]")]
    (cost,) = costs.estimate(settings("qwen2-vl-2b", *few, only="01"))
    assert cost.items == 2 * (100 + costs.TARGETS) * 2
    assert cost.tokens == cost.items * 70 + cost.items * 391 // 2
    # An A100 reaches 109 TFLOP/s; a text of 70 tokens and half a photo of 391 visual tokens, each of 4 patches.
    flops_of_one = 2 * (1.3e9 * (70 + 195.5) + 0.67e9 * 4 * 195.5)
    assert cost.gpu_hours == pytest.approx(12_400 * flops_of_one / 109.2e12 / 3600, rel=0.01)


def test_more_costs_more():
    small, large = (
        sum(one.gpu_hours for one in costs.estimate(settings(profile))) for profile in ("qwen2-vl-2b", "qwen2-vl-7b")
    )
    assert 3 * small < large < 6.5 / 1.3 * small  # the vision tower is the same
    (sliced,) = costs.estimate(settings("qwen2-vl-2b", ("subsets", "[ImageNet_1K]"), ("limit", "500"), only="02"))
    assert sliced.items == 1000
    stages = [one.stage[:2] for one in costs.estimate(settings("saha-2b"))]
    assert stages == ["da", "01"]


def test_unimes_notebooks():
    stages = {one.stage: one for one in costs.estimate(settings("qwen2-vl-2b")) if one.stage[:2] in ("05", "06")}
    assert stages["05 unime"].items == 2 * 2048 * (2 * 1500 + 9 * 300)
    assert stages["05 unime, stage 1"].items == 2 * 711 * 768
    assert stages["05 unime, stage 1"].tokens == stages["05 unime, stage 1"].items * costs.TEXT_TOKENS
    assert stages["05 unime, evaluation"].items == 36 * (1000 + costs.TARGETS) * 11
    assert stages["06 sugarcrepe"].items == 30_000 * (7 + 6)


def test_the_question(monkeypatch, capsys):
    chosen, answers = settings("qwen2-vl-2b"), iter(["y", "", "no"])
    monkeypatch.setattr(builtins, "input", lambda _: next(answers))
    assert [costs.confirm(chosen, asks=True) for _ in range(3)] == [True, False, False]
    out = capsys.readouterr().out
    assert "GPU-hours" in out
    assert "all, if nothing is cached" in out
    monkeypatch.setattr(builtins, "input", lambda _: pytest.fail("asked without a terminal"))
    assert costs.confirm(chosen, asks=False)


def test_it_is_said_how_many_gpus_train():
    told = "Training takes one GPU unless `-p launch"
    assert told in costs.describe(costs.estimate(settings("evening")))
    assert told not in costs.describe(costs.estimate(settings("saha-2b")))


def test_a_no_runs_nothing(monkeypatch):
    monkeypatch.setattr(costs, "confirm", lambda _: False)
    monkeypatch.setattr(runner, "run", lambda *_: pytest.fail("ran"))
    assert command_line.run(["--profile", "qwen2-vl-2b"]) == 0


def test_the_papers_settings_stand_in_the_profiles():
    for name in ("qwen2-vl-2b", "qwen2-vl-7b"):
        training = load_profile(name)["03_training"]
        assert training["pairs_per_step"] == 16 * 16 * 8
        assert (training["steps"], training["learning_rate"], training["warmup_steps"]) == (1500, 5e-5, 100)


def test_the_size_of_the_data_is_the_hubs_word(hub, hub_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(costs, "DATA", tmp_path)
    few = [("datasets", "[CIRR, MSCOCO_i2t]"), ("subsets", "[ImageNet_1K]")]
    (whole,) = costs.estimate(settings("qwen2-vl-2b", *few, only="00"))
    few.append(("parts", "[training]"))
    (cost,) = costs.estimate(settings("qwen2-vl-2b", *few, only="00"))
    repositories = [hub_folder / "datasets" / name for name in (download.MMEB_EVAL, download.MMEB_TRAIN)]
    files = [*repositories[0].glob("CIRR/*"), *repositories[0].glob("MSCOCO_i2t/*"), repositories[0] / "images.zip"]
    files += [
        *repositories[1].glob("ImageNet_1K/diverse_instruction-*"),
        repositories[1] / "images_zip" / "ImageNet_1K.zip",
    ]
    assert cost.disk == pytest.approx(2 * sum(file.stat().st_size for file in files) / 1e9)
    unime = [hub_folder / "datasets" / download.NLI / name for name in download.NLI_FILES.values()]
    unime += (hub_folder / "datasets" / download.URBAN).glob("*.zip")
    assert whole.disk - cost.disk == pytest.approx(2 * sum(file.stat().st_size for file in unime) / 1e9)


def test_offline_the_size_is_unknown():
    assert "unknown" in costs.describe(costs.estimate(settings("qwen2-vl-2b", only="00")))


def test_an_evening_is_enough_for_the_profile_of_that_name():
    """On a card whose peak is a quarter of the assumed one's, as 24 GB cards' are."""
    hours = sum(one.gpu_hours for one in costs.estimate(settings("evening")))
    slower = costs.PEAK_FLOPS[costs.ASSUMED_GPU] / costs.PEAK_FLOPS["3090"]
    assert 0 < slower * hours < 10
