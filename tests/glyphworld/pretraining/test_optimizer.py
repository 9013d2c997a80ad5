import pytest
import torch
from torch import nn

from g2e_lib.glyphworld.pretraining.optimizer import WORDS_RATE, Muon, Optimizer, orthogonalize


def test_orthogonalize_keeps_directions_and_levels_strengths():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        matrix = torch.randn(shape)
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        result = orthogonalize(matrix)
        strengths = torch.diagonal(u.T @ result @ vt.T)
        assert strengths.min() > 0.6
        assert strengths.max() < 1.3
        torch.testing.assert_close(result, u @ torch.diag(strengths) @ vt, atol=1e-3, rtol=0)


def test_muon_equals_torchs_up_to_bfloat16():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    mine = Muon([ours], weight_decay=0.1)
    mine.param_groups[0]["lr"] = 0.1
    for step in range(3):
        gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


def test_matrices_and_the_rest_are_told_apart():
    shapes = {"layer.weight": (3, 4), "embed_tokens.weight": (5, 3), "norm.weight": (3,), "patch_embed.weight": (2, 3)}
    parameters = {name: nn.Parameter(torch.ones(shape)) for name, shape in shapes.items()}
    muon, adamw = Optimizer(parameters, weight_decay=0.0).parts
    assert [p.shape for p in muon.param_groups[0]["params"]] == [(3, 4)]
    assert [[p.shape for p in group["params"]] for group in adamw.param_groups] == [[(3,), (2, 3)], [(5, 3)]]


def test_words_move_slowly():
    shapes = {"norm.weight": (1,), "embed_tokens.weight": (1, 1), "layer.weight": (1, 1)}
    parameters = {name: nn.Parameter(torch.zeros(shape)) for name, shape in shapes.items()}
    for p in parameters.values():
        p.grad = torch.ones_like(p)
    Optimizer(parameters, weight_decay=0.0).step(0.5, max_gradient_norm=1.0)
    moved = [float(parameters[name].detach()) for name in ("norm.weight", "embed_tokens.weight")]
    assert moved == pytest.approx([-0.5, -0.5 * WORDS_RATE], rel=1e-4)


def test_state_survives_a_round_trip(tmp_path):
    def make():
        torch.manual_seed(0)
        return {name: nn.Parameter(torch.randn(shape)) for name, shape in (("a", (3, 4)), ("b", (3,)))}

    def steps(parameters, optimizer, numbers):
        for number in numbers:
            for p in parameters.values():
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(number))
            optimizer.step(0.1, 1.0)

    straight = make()
    steps(straight, Optimizer(straight, 0.01), range(6))
    first = make()
    optimizer = Optimizer(first, 0.01)
    assert optimizer.load(tmp_path / "state") == 0
    steps(first, optimizer, range(3))
    optimizer.save(tmp_path / "state", 3)
    second = make()
    resumed = Optimizer(second, 0.01)
    assert resumed.load(tmp_path / "state") == 3
    steps(second, resumed, range(3, 6))
    assert all(torch.equal(straight[name], second[name]) for name in straight)
