"""Typed settings: what is shown wins over what was given, and what is wrong is named."""

import inspect
import subprocess
import sys
from types import SimpleNamespace

import pytest

from g2e_lib.embedder import Embedder
from g2e_lib.experiments.settings import NOTEBOOK_SETTINGS, AblationSettings, StudySettings, TrainingSettings
from g2e_lib.glyphworld.benchmark import Size
from g2e_lib.train_config import TrainConfig


def given(**values):
    return SimpleNamespace(settings=lambda notebook, known: values)


def test_shown_before_given_before_default():
    settings = TrainingSettings.of(given(steps=5, learning_rate="1e-4", subsets=["Crop"]), steps=7)
    assert (settings.steps, settings.learning_rate, settings.subsets) == (7, 1e-4, ("Crop",))
    assert settings.pairs_per_step == 64
    assert AblationSettings.of(given(fraction=[1])).fraction == (1.0,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"colour": 1}, "03_training has no setting 'colour': choose among seed, model"),
        ({"steps": "many"}, "03_training: steps takes a whole number, not 'many'"),
        ({"steps": 1.5}, "03_training: steps takes a whole number, not 1.5"),
        ({"use_dora": 1}, "03_training: use_dora takes true or false, not 1"),
        ({"learning_rate": "fast"}, "03_training: learning_rate takes a number, not 'fast'"),
        ({"subsets": "Crop"}, "03_training: subsets takes a list, each element a text, not 'Crop'"),
        ({"subsets": [1]}, "03_training: subsets takes a list, each element a text"),
    ],
)
def test_what_is_wrong_is_one_sentence(value, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings.of(given(), **value)


def test_settings_fit_what_takes_them():
    embedder = inspect.signature(Embedder.from_pretrained).parameters, inspect.signature(Embedder).parameters
    for kind in NOTEBOOK_SETTINGS.values():
        if issubclass(kind, StudySettings):
            TrainConfig(folder="", data="", subsets=("a",), **kind().train_settings())
            assert set(kind().embedding()) <= {*embedder[0], *embedder[1]}
    Size(**NOTEBOOK_SETTINGS["00_setup"]().size())


def test_they_need_no_torch():
    code = "import sys, g2e_lib.experiments.settings; assert not {'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
