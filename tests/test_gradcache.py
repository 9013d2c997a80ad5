"""The gradient cache against one big batch, in every condition it promises."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from g2e_lib.gradcache import GradCache, info_nce


class Net(nn.Module):
    """A small encoder with dropout and unit rows."""

    def __init__(self, dropout=0.0, dtype=torch.float64):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 5)).to(dtype)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=dtype) / 2

    def forward(self, x):
        return nn.functional.normalize(self.layers(x), dim=1)


def batch(queries=11, targets=11, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(n, 6, generator=generator, dtype=dtype) for n in (queries, targets))


def gradients(net):
    return torch.cat([p.grad.flatten() for p in net.parameters()])


def loss_fn(q, t, ids=None):
    return info_nce(q, t, ids, temperature=0.1)


# --- the loss ------------------------------------------------------------------------------------------------------


def test_info_nce_in_closed_form():
    q = torch.eye(2, dtype=torch.float64)
    assert info_nce(q, q, temperature=0.5).item() == pytest.approx(math.log(1 + math.exp(-2)))
    extra = torch.cat((q, q[:1]))  # a third target equal to the first positive
    expected = (math.log(2 + math.exp(-2)) + math.log(1 + 2 * math.exp(-2))) / 2
    assert info_nce(q, extra, temperature=0.5).item() == pytest.approx(expected)


def test_identical_targets_are_masked():
    q, t = (nn.functional.normalize(x, dim=1) for x in batch(4, 5))
    t[2] = t[0]
    ids = torch.tensor([7, 1, 7, 3, 4])
    rows = []
    for i in range(4):
        negatives = [j for j in range(5) if j != i and ids[j] != ids[i]]
        logits = torch.stack([q[i] @ t[j] / 0.1 for j in (i, *negatives)])
        rows.append(logits.logsumexp(0) - logits[0])
    assert info_nce(q, t, ids, 0.1).item() == pytest.approx(torch.stack(rows).mean().item())
    assert info_nce(q, t, ids, 0.1) < info_nce(q, t, None, 0.1)


def test_loss_names_what_is_wrong():
    q, t = batch(4, 3)
    with pytest.raises(ValueError, match="4 queries have only 3 targets"):
        info_nce(q, t)
    with pytest.raises(ValueError, match="temperature is 0"):
        info_nce(q, q, temperature=0)


# --- equality with one big batch -----------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_size", [1, 3, 4, 11, 100])
@pytest.mark.parametrize("targets", [11, 19])
def test_gradients_equal_those_of_one_batch(chunk_size, targets):
    (q, t), one, other = batch(11, targets), Net(), Net()
    ids = torch.arange(targets) % 9
    expected = loss_fn(one(q), one(t), ids)
    expected.backward()
    loss = GradCache(other, loss_fn, chunk_size).step(q, t, ids)
    assert not loss.requires_grad
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert (gradients(other) - gradients(one)).abs().max() < 1e-12


@pytest.mark.parametrize("chunk_size", [2, 5])
def test_dropout_is_replayed(chunk_size):
    """With a graph kept through all chunks, dropped with the same masks, the gradients are the same."""
    (q, t), one, other = batch(), Net(dropout=0.4), Net(dropout=0.4)
    torch.manual_seed(5)
    encoded = [torch.cat([one(chunk) for chunk in x.split(chunk_size)]) for x in (q, t)]
    expected = loss_fn(*encoded)
    expected.backward()
    after = torch.get_rng_state()
    torch.manual_seed(5)
    loss = GradCache(other, loss_fn, chunk_size).step(q, t)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    assert (gradients(other) - gradients(one)).abs().max() < 1e-9
    assert torch.equal(torch.get_rng_state(), after)  # the second pass leaves no trace


def test_gradients_accumulate():
    (q, t), net = batch(), Net()
    cache = GradCache(net, loss_fn, 4)
    cache.step(q, t)
    once = gradients(net)
    cache.step(q, t)
    assert torch.allclose(gradients(net), 2 * once, atol=1e-12)


def test_anything_that_can_be_sliced():
    (q, t), one, other = batch(), Net(), Net()
    GradCache(one, loss_fn, 4).step(q, t)
    GradCache(lambda chunk: other(torch.stack(chunk)), loss_fn, 4).step(list(q), list(t))
    assert torch.allclose(gradients(one), gradients(other), atol=1e-12)


def test_autocast():
    (q, t), one, other = batch(dtype=torch.float32), Net(dtype=torch.float32), Net(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = loss_fn(one(q).float(), one(t).float())
        loss = GradCache(lambda x: other(x).float(), loss_fn, 4).step(q, t)
    expected.backward()
    assert all(p.grad is not None for p in other.parameters())
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert nn.functional.cosine_similarity(gradients(one), gradients(other), dim=0) > 0.99


def test_bad_steps_are_named():
    with pytest.raises(ValueError, match="chunk_size is 0"):
        GradCache(Net(), loss_fn, 0)
    with pytest.raises(ValueError, match="at least one query"):
        GradCache(Net(), loss_fn, 2).step([], [])
    with pytest.raises(ValueError, match="3 queries have only 2 targets"):
        GradCache(Net(), loss_fn, 2).step(*batch(3, 2))


def test_the_loss_is_never_in_half_precision():
    seen = []

    def watching(q, t):
        seen.append((q @ t.T).dtype)
        return loss_fn(q, t)

    (q, t), net = batch(dtype=torch.float32), Net(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        GradCache(net, watching, 4).step(q, t)
    assert seen == [torch.float32]


# --- two processes -------------------------------------------------------------------------------------------------


KINDS = ("module", "function", "ddp")


def work(rank, address, folder):
    """What each process does: steps of one encoder in three forms, and a step of two towers."""
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    (q, t), ids = batch(11, 14), torch.arange(14) % 9
    mine = slice(0, 7) if rank == 0 else slice(7, 11)  # unequal shares, and unequal numbers of extra negatives
    extra = slice(11, 12) if rank == 0 else slice(12, 14)
    for kind in KINDS:
        net = Net()
        encode = {"module": net, "function": lambda x, net=net: net(x)}.get(kind) or DistributedDataParallel(net)
        cache = GradCache(encode, loss_fn, 3)
        batch_of_mine = q[mine], torch.cat((t[mine], t[extra])), torch.cat((ids[mine], ids[extra]))
        loss = cache.step(*batch_of_mine)
        once = gradients(net).clone()
        cache.step(*batch_of_mine)  # adds to what is there
        np.savez(f"{folder}/{kind}{rank}.npz", loss=loss.numpy(), once=once.numpy(), twice=gradients(net).numpy())
    (q, t), left, right = batch(), Net(), Net()
    queries, targets = ([(tower, row) for row in x[mine]] for tower, x in ((left, q), (right, t)))
    GradCache(encode_rows, loss_fn, 2).step(queries, targets)
    np.savez(f"{folder}/towers{rank}.npz", left=gradients(left).numpy(), right=gradients(right).numpy())
    dist.destroy_process_group()


def encode_rows(chunk):
    return chunk[0][0](torch.stack([row for _, row in chunk]))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(work, (f"file://{folder}/rendezvous", str(folder)), nprocs=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_equal_one(two_processes, kind, rank):
    (q, t), net = batch(11, 14), Net()
    expected = loss_fn(net(q), net(t), torch.arange(14) % 9)
    expected.backward()
    found = np.load(two_processes / f"{kind}{rank}.npz")
    assert found["loss"] == pytest.approx(expected.item(), abs=1e-12)
    assert np.abs(found["once"] - gradients(net).numpy()).max() < 1e-9
    assert np.abs(found["twice"] - 2 * gradients(net).numpy()).max() < 1e-9


@pytest.mark.parametrize("rank", [0, 1])
def test_a_function_of_two_towers(two_processes, rank):
    (q, t), left, right = batch(), Net(), Net()
    loss_fn(left(q), right(t)).backward()
    found = np.load(two_processes / f"towers{rank}.npz")
    assert np.abs(found["left"] - gradients(left).numpy()).max() < 1e-9
    assert np.abs(found["right"] - gradients(right).numpy()).max() < 1e-9
