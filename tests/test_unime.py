"""UniME's losses against their definitions, written with loops."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from g2e_lib.gradcache import GradCache, info_nce
from g2e_lib.unime import choose_negatives, chosen_loss, distillation_loss


def hard_negative_loss(q, t, ids=None, temperature=0.02, margin=0.1, top_k=8):
    return chosen_loss(q, t, choose_negatives((q @ t.T).detach(), ids, margin, top_k), temperature)


def embeddings(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [normalize(torch.randn(*size, generator=generator, dtype=torch.float64), dim=1) for size in sizes]


def distillation_by_hand(student, teacher, temperature):
    total = 0
    for i in range(len(student)):
        p = torch.stack([torch.exp(teacher[i] @ teacher[j] / temperature) for j in range(len(teacher))])
        q = torch.stack([torch.exp(student[i] @ student[j] / temperature) for j in range(len(student))])
        p, q = p / p.sum(), q / q.sum()
        total = total + sum(p[j] * (p[j].log() - q[j].log()) for j in range(len(student)))
    return total / len(student)


def test_distillation_and_its_gradient_equal_the_definition():
    student, teacher = embeddings((7, 5), (7, 9))
    one, other = student.clone().requires_grad_(), student.clone().requires_grad_()
    loss, expected = distillation_loss(one, teacher, 0.3), distillation_by_hand(other, teacher, 0.3)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=0)


def test_a_student_like_its_teacher_has_no_loss():
    (teacher,) = embeddings((6, 4))
    rotation = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64))[0]
    assert distillation_loss(teacher @ rotation, teacher).item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="the student embedded 5 sentences and the teacher 6"):
        distillation_loss(teacher[:5], teacher)


def hard_negatives_by_hand(q, t, ids, temperature, margin, top_k):
    losses, chosen = [], []
    for i in range(len(q)):
        own = q[i] @ t[i]
        allowed = [j for j in range(len(t)) if ids[j] != ids[i] and q[i] @ t[j] <= own + margin]
        hardest = sorted(allowed, key=lambda j: -(q[i] @ t[j]).item())[:top_k]
        chosen.append(set(hardest))
        terms = [torch.exp((q[i] @ t[j] - own) / temperature) for j in hardest]
        losses.append(torch.log(1 + sum(terms)) if terms else own * 0)
    return torch.stack(losses).mean(), chosen


@pytest.mark.parametrize(("margin", "top_k"), [(0.1, 3), (0.0, 8), (-0.3, 2), (2.0, 100)])
def test_hard_negatives_and_their_gradient_equal_the_definition(margin, top_k):
    q, t = embeddings((8, 4), (11, 4), seed=1)
    ids = torch.tensor([0, 1, 2, 0, 4, 5, 6, 7, 8, 9, 2])
    one, other = q.clone().requires_grad_(), q.clone().requires_grad_()
    expected, chosen = hard_negatives_by_hand(other, t, ids, 0.2, margin, top_k)
    loss = hard_negative_loss(one, t, ids, 0.2, margin, top_k)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    torch.testing.assert_close(one.grad, other.grad, atol=1e-12, rtol=0)
    rows = choose_negatives(q @ t.T, ids, margin, top_k)
    assert [set(row.nonzero().flatten().tolist()) for row in rows] == chosen


def test_without_a_filter_it_is_info_nce():
    q, t = embeddings((8, 4), (8, 4), seed=2)
    assert hard_negative_loss(q, t, margin=math.inf, top_k=7).item() == pytest.approx(info_nce(q, t).item())


def test_it_goes_through_the_gradient_cache():
    q, t = (x.requires_grad_() for x in embeddings((9, 4), (9, 4), seed=3))
    loss = hard_negative_loss(q, t)
    expected = torch.autograd.grad(loss, (q, t))
    found = GradCache(lambda chunk: chunk, hard_negative_loss, 2).step(q, t)
    assert found.item() == pytest.approx(loss.item())
    torch.testing.assert_close(q.grad, expected[0])
    torch.testing.assert_close(t.grad, expected[1])


def test_too_few_targets():
    q, t = embeddings((4, 3), (3, 3))
    with pytest.raises(ValueError, match="4 queries have only 3 targets"):
        chosen_loss(q, t, torch.zeros(4, 3, dtype=torch.bool))


def test_easy_and_random_negatives():
    q, t = embeddings((8, 4), (11, 4), seed=4)
    ids = torch.tensor([0, 1, 2, 0, 4, 5, 6, 7, 8, 9, 2])
    similarity = q @ t.T
    allowed = choose_negatives(similarity, ids, 2.0, 11)
    easy = choose_negatives(similarity, ids, 2.0, 3, "easy")
    for row, mask, chosen in zip(similarity, allowed, easy, strict=True):
        assert row[chosen].max() <= row[mask & ~chosen].min()
        assert chosen.sum() == 3
    random = [
        choose_negatives(similarity, ids, 2.0, 3, "random", torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    ]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])
    assert not (random[0] & ~allowed).any()
    assert (random[0].sum(1) == 3).all()
    with pytest.raises(ValueError, match="unknown order of negatives 'best': use 'hard', 'easy' or 'random'"):
        choose_negatives(similarity, ids, order="best")
