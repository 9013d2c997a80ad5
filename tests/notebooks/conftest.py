"""One hub for all notebook tests: the papers' data, a tiny Qwen2-VL in its released form, and a tiny text teacher."""

import pytest
from conftest import SHARED
from standin import Hub, build_crepe, build_mmeb, build_models, build_unime

ROWS = 30  # of each subset: more than any test takes


@pytest.fixture(scope="session")
def notebook_hub(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub")
    photos = sorted((SHARED / "coco_val2017").glob("*.jpg")) if SHARED.is_dir() else []
    build_mmeb(folder, photos, queries=ROWS, pairs=ROWS, candidates=3)
    build_crepe(folder)
    build_unime(folder)
    build_models(folder, SHARED / "qwen2_tokenizer")
    hub = Hub(folder)
    yield hub
    hub.close()
