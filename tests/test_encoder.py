"""The trainable view of an embedder: the same embeddings, and gradients that reach what trains."""

import numpy as np
import pytest
import torch

from g2e_lib import embedder as embedder_module
from g2e_lib.embedder import Embedder, Encoder
from g2e_lib.gradcache import GradCache, info_nce


@pytest.fixture
def fresh():
    return Embedder.from_pretrained("glyphworld-base", device="cpu", dtype="float32")


@pytest.mark.parametrize("prompt", ["none", "hierarchical", "unime"])
@pytest.mark.parametrize("role", ["query", "target"])
def test_embeds_like_the_embedder(embedder, mixed_items, prompt, role):
    prompted = embedder.with_prompt(prompt)
    encoder = Encoder(prompted)
    with torch.no_grad():
        found = encoder(encoder.prepare(mixed_items, role)).numpy()
        few = encoder(encoder.prepare(mixed_items[:3], role)).numpy()  # too few to share a prefix
    expected = prompted.encode(mixed_items, role)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(few, expected[:3], atol=1e-5)


def test_threads_that_open_images_change_no_bit(fresh, mixed_items, monkeypatch):
    monkeypatch.setattr(embedder_module, "IMAGES_AT_ONCE", 2)
    encoder, found = Encoder(fresh), []
    for threads in (0, 3):
        fresh.threads = threads
        with torch.no_grad():
            found.append(encoder(encoder.prepare(mixed_items, "query")))
    assert torch.equal(*found)


@pytest.mark.parametrize("trains_vision", [False, True])
def test_chunks_do_not_change_gradients(fresh, mixed_items, trains_vision):
    images = [item for item in mixed_items if getattr(item, "image", None) is not None]
    encoder, model = Encoder(fresh), fresh.model
    trained = [model.model.language_model.layers[0].self_attn.q_proj.weight, model.model.language_model.norm.weight]
    trained += [model.model.visual.patch_embed.proj.weight] if trains_vision else []
    for weight in trained:
        weight.requires_grad_()
    gradients = []
    for chunk_size in (3, 100):
        queries, targets = encoder.prepare(images[:9], "query"), encoder.prepare(mixed_items[:12], "target")
        GradCache(encoder, info_nce, chunk_size).step(queries, targets)
        gradients.append([weight.grad.clone() for weight in trained])
        for weight in trained:
            weight.grad = None
    for small, large in zip(*gradients, strict=True):
        assert large.abs().max() > 0
        torch.testing.assert_close(small, large, rtol=1e-3, atol=1e-5 * float(large.abs().max()))


def test_one_pass_a_chunk_whatever_is_in_it(embedder, mixed_items):
    """Processes that share weights would wait for each other if their chunks took different numbers of passes."""
    passes = []
    hook = embedder.model.model.language_model.register_forward_hook(lambda *_: passes.append(1))
    with torch.no_grad():
        found = {}
        for one_pass in (False, True):
            encoder = Encoder(embedder, one_pass)
            prepared = encoder.prepare(mixed_items, "query")
            passes.clear()
            found[one_pass] = encoder(prepared)
            assert (len(passes) == 1) is one_pass
    hook.remove()
    torch.testing.assert_close(found[True], found[False], atol=1e-5, rtol=0)
