"""What a GPU computes against what a CPU does; skipped without one."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from g2e_lib.embedder import Embedder
from g2e_lib.project.tracking import read_log
from g2e_lib.saha import mine_clusters
from g2e_lib.train import train
from g2e_lib.train_config import TrainConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_embeddings(embedder, mixed_items, dtype, tolerance):
    found = Embedder.from_pretrained("glyphworld-base", device="cuda", dtype=dtype).encode(mixed_items)
    np.testing.assert_allclose(found, embedder.encode(mixed_items), atol=tolerance)


def test_mining():
    rng = np.random.default_rng(0)
    queries, targets = rng.normal(size=(2, 3000, 64)).astype(np.float32)
    positive_of = rng.integers(0, 3000, 3000)
    expected = mine_clusters(queries, targets, positive_of)
    found = mine_clusters(queries, targets, positive_of, device="cuda")
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]


def test_training(small_build, tmp_path):
    config = TrainConfig(str(tmp_path / "a"), str(small_build / "train"), ("ObjectName", "CaptionT2I"))
    config = replace(config, steps=6, pairs_per_step=16, chunk_size=8)
    assert (train(config) / "adapter_model.safetensors").exists()
    losses = [record["loss"] for record in read_log(tmp_path / "a")]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
