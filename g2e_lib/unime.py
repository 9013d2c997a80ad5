"""UniME's two losses (arXiv 2504.17432): distil a text teacher, then train on filtered hard negatives.

B queries or sentences, M targets in the batch, K hard negatives, D embedding size; see gradcache.py, whose GradCache
takes the second loss as it is.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from g2e_lib.gradcache import TEMPERATURE
from g2e_lib.saha import MARGIN

SENTENCE_PROMPT = "Summarize the above sentences in one word:"  # of the first stage
HARD_NEGATIVES = 8  # of the second stage


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
    similarity: Tensor, target_ids: Tensor | None = None, margin: float = MARGIN, top_k: int = HARD_NEGATIVES
) -> Tensor:
    """Each query's hardest negatives in the batch, without likely false ones (UniME, stage 2).

    Args:
        similarity: (B, M) cosines; target i is the positive of query i.
        target_ids: (M,) int, equal where targets are identical; those are no negatives. None: all differ.
        margin: beta; a target more similar than the positive by more than this is taken for a false negative.
        top_k: K.

    Returns:
        (B, M) bool, at most K a row.
    """
    count = len(similarity)
    is_allowed = similarity <= similarity.diagonal()[:, None] + margin
    ids = torch.arange(similarity.shape[1], device=similarity.device) if target_ids is None else target_ids
    is_allowed &= ids[:count, None] != ids
    candidates = similarity.masked_fill(~is_allowed, -torch.inf)
    hardest = candidates.topk(min(top_k, candidates.shape[1]), dim=1).indices
    return torch.zeros_like(is_allowed).scatter(1, hardest, value=True) & is_allowed


def hard_negative_loss(
    query_embeddings: Tensor,
    target_embeddings: Tensor,
    target_ids: Tensor | None = None,
    temperature: float = TEMPERATURE,
    margin: float = MARGIN,
    top_k: int = HARD_NEGATIVES,
) -> Tensor:
    """InfoNCE with the hardest negatives only, likely false ones dropped (UniME, stage 2).

    Args:
        query_embeddings: (B, D) float, unit rows.
        target_embeddings: (M, D) float, unit rows, M >= B; row i is the positive of query i.
        target_ids: (M,) int, see choose_negatives.
        temperature: divides the cosine similarity; > 0.
        margin: beta.
        top_k: K.

    Returns:
        () float, in nats; a query without negatives adds 0.

    Raises:
        ValueError: fewer targets than queries.
    """
    count = len(query_embeddings)
    if len(target_embeddings) < count:
        raise ValueError(f"{count} queries have only {len(target_embeddings)} targets: give each its positive first")
    similarity = query_embeddings @ target_embeddings.T
    is_used = choose_negatives(similarity.detach(), target_ids, margin, top_k)
    own = torch.arange(count, device=similarity.device)
    is_used[own, own] = True
    return cross_entropy(similarity.masked_fill(~is_used, -torch.inf) / temperature, own)
