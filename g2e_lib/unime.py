"""UniME's two losses (arXiv 2504.17432): distil a text teacher, then train on filtered hard negatives.

B queries or sentences, M targets in the batch, K hard negatives, D embedding size; see gradcache.py. `train.Trainer`
runs both stages: the same loop, gradient cache and adapter, with another loss.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from g2e_lib.gradcache import TEMPERATURE
from g2e_lib.miners import FILTER_MARGIN, HARD_NEGATIVES

Order = Literal["hard", "easy", "random"]


def distillation_loss(
    student_embeddings: Tensor, teacher_embeddings: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """How far the student's in-batch similarities are from the teacher's (UniME, stage 1, textual distillation).

    The Kullback-Leibler divergence from the teacher's row-wise softmax to the student's, mean over rows.

    Args:
        student_embeddings: (B, D) float, unit rows; carries the gradient.
        teacher_embeddings: (B, any size) float, unit rows of the same sentences.
        temperature: divides both cosine similarities; > 0.

    Returns:
        () float, in nats.

    Raises:
        ValueError: the two are not embeddings of the same number of sentences.
    """
    if len(student_embeddings) != len(teacher_embeddings):
        raise ValueError(
            f"the student embedded {len(student_embeddings)} sentences and the teacher {len(teacher_embeddings)}: "
            "give both the same batch"
        )
    teacher = teacher_embeddings.detach()
    expected = log_softmax(teacher @ teacher.T / temperature, dim=1)
    found = log_softmax(student_embeddings @ student_embeddings.T / temperature, dim=1)
    return kl_div(found, expected.to(found.dtype), reduction="batchmean", log_target=True)


def choose_negatives(
    similarity: Tensor,
    target_ids: Tensor | None = None,
    margin: float = FILTER_MARGIN,
    top_k: int = HARD_NEGATIVES,
    order: Order = "hard",
    generator: torch.Generator | None = None,
) -> Tensor:
    """Each query's negatives in the batch, without likely false ones (UniME, stage 2).

    Args:
        similarity: (B, M) cosines; target i is the positive of query i.
        target_ids: (M,) int, equal where targets are identical; those are no negatives. None: all differ.
        margin: beta; a target more similar than the positive by more than this is taken for a false negative.
        top_k: K.
        order: the K most similar ("hard", UniME's), the K least similar, or any K: to compare with.
        generator: of the random ones; on the device of `similarity`.

    Returns:
        (B, M) bool, at most K a row.

    Raises:
        ValueError: an unknown order.
    """
    count = len(similarity)
    is_allowed = similarity <= similarity.diagonal()[:, None] + margin
    ids = torch.arange(similarity.shape[1], device=similarity.device) if target_ids is None else target_ids
    is_allowed &= ids[:count, None] != ids
    if order == "random":
        rank = torch.rand(similarity.shape, generator=generator, device=similarity.device)
    elif order in ("hard", "easy"):
        rank = similarity if order == "hard" else -similarity
    else:
        raise ValueError(f"unknown order of negatives {order!r}: use 'hard', 'easy' or 'random'")
    first = rank.masked_fill(~is_allowed, -torch.inf).topk(min(top_k, rank.shape[1]), dim=1).indices
    return torch.zeros_like(is_allowed).scatter(1, first, value=True) & is_allowed


def chosen_loss(
    query_embeddings: Tensor, target_embeddings: Tensor, is_negative: Tensor, temperature: float = TEMPERATURE
) -> Tensor:
    """InfoNCE in which every query has negatives of its own.

    Args:
        query_embeddings: (B, D) float, unit rows.
        target_embeddings: (M, D) float, unit rows, M >= B; row i is the positive of query i.
        is_negative: (B, M) bool, from choose_negatives.
        temperature: divides the cosine similarity; > 0.

    Returns:
        () float, in nats; a query without negatives adds 0.

    Raises:
        ValueError: fewer targets than queries.
    """
    count = len(query_embeddings)
    if len(target_embeddings) < count:
        raise ValueError(f"{count} queries have only {len(target_embeddings)} targets: give each its positive first")
    own = torch.arange(count, device=is_negative.device)
    is_used = is_negative.index_put((own, own), torch.tensor(True, device=own.device))
    logits = query_embeddings @ target_embeddings.T / temperature
    return cross_entropy(logits.masked_fill(~is_used, -torch.inf), own)
