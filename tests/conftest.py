import os

# Processes that run side by side must not each take all cores; read when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from g2e_lib.data.items import Item
from g2e_lib.glyphworld import benchmark

SHARED = Path(os.environ.get("G2E_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SMALL = benchmark.Size(queries=12, pairs=30, candidates=10, families=20)


# What trains, starts processes, opens a browser or draws everything: left out by `./run_all.sh test --quick`.
SLOW = {
    *(
        "backbone/test_sharding",
        "experiments/test_study",
        "experiments/test_worlds",
        "glyphworld/pretraining/test_vision",
    ),
    *("glyphworld/pretraining/test_competence", "glyphworld/pretraining/test_pretrain", "project/test_run"),
    *("report/test_pages", "report/test_registry", "scale/test_launch", "scale/test_launching", "scale/test_parallel"),
    *("scale/test_scale", "test_benchmarks", "test_encoder", "test_gradcache", "test_train"),
}
SLOW_TESTS = {"test_imports_without_torch"}


def pytest_collection_modifyitems(items):
    """What takes minutes comes first, or one process would be left with it at the end."""
    here = Path(__file__).parent
    for item in items:
        place = item.path.relative_to(here).with_suffix("").as_posix() if item.path.is_relative_to(here) else ""
        if place in SLOW or getattr(item, "originalname", "") in SLOW_TESTS:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: ("notebooks" not in item.keywords, "slow" not in item.keywords))


@pytest.fixture(scope="session")
def embedder():
    from g2e_lib.embedder import Embedder

    return Embedder.from_pretrained("glyphworld-base", prompt="hierarchical", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def small_build(tmp_path_factory):
    root = tmp_path_factory.mktemp("mmeb-mini")
    benchmark.build(root, SMALL, show_progress=False)
    return root


@pytest.fixture(scope="session")
def mixed_items(small_build):
    """Texts, images, and both, of different lengths and sizes, in no order."""
    rows, _ = benchmark.load(small_build)
    items = [item for one in rows.values() for row in one[:3] for item in (row.query, row.candidates[0])]
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, size=(50, 120, 3), dtype=np.uint8))
    extra = ["a", "sun " * 40, noise, {"text": "what is this?", "image": noise}, Item("", items[0].image)]
    return [*items, *extra]


@pytest.fixture
def shared_data():
    """A folder of real files some tests want; absent in most clones."""
    if not SHARED.is_dir():
        pytest.skip(
            f"needs real test files in {os.path.relpath(SHARED)} (or G2E_TEST_DATA): not part of the repository"
        )
    return SHARED


@pytest.fixture(scope="session")
def untrained():
    """A new model and its processor, with a tokenizer of few words."""
    import random

    from g2e_lib.glyphworld.pretraining.corpus import sample_conversation
    from g2e_lib.glyphworld.pretraining.model import build_model, build_processor, build_tokenizer

    rng = random.Random(0)
    processor = build_processor(
        build_tokenizer("".join(p for p, _ in sample_conversation(rng).segments()) for _ in range(300))
    )
    return build_model(processor.tokenizer, 0), processor


@pytest.fixture(scope="session")
def shared_tokenizer():
    """The released Qwen2 vocabulary (vocab.json, merges.txt); absent in most clones."""
    folder = SHARED / "qwen2_tokenizer"
    if not folder.is_dir():
        pytest.skip(f"needs Qwen2's vocabulary in {os.path.relpath(folder)}, which is not part of the repository")
    return folder


@pytest.fixture(scope="session")
def hub_folder(tmp_path_factory):
    """The papers' data sets in their published form, a few rows each, as a hub and other hosts would serve them."""
    from standin import build_crepe, build_mmeb, build_unime

    folder = tmp_path_factory.mktemp("hub")
    build_mmeb(folder, sorted((SHARED / "coco_val2017").glob("*.jpg")) if SHARED.is_dir() else [])
    build_crepe(folder)
    build_unime(folder)
    return folder


@pytest.fixture
def hub(hub_folder, monkeypatch):
    """Those data sets on a loopback server, to which this process's requests go."""
    from standin import Hub

    one = Hub(hub_folder)
    for name, value in one.environment().items():
        monkeypatch.setenv(name, value)
    yield one
    one.close()
