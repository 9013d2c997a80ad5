"""The contrastive loss and the gradient cache: the gradients of one huge batch in the memory of a small one.

Knows nothing of models or files. B queries, M targets in the batch (M >= B: target i is the positive of query i, all
further ones are negatives of everybody), D embedding size; under distribution, those of all processes together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from zlib import crc32

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

TEMPERATURE = 0.02  # both papers'


def info_nce(
    query_embeddings: Tensor,
    target_embeddings: Tensor,
    target_ids: Tensor | None = None,
    temperature: float = TEMPERATURE,
) -> Tensor:
    """Mean cross-entropy of each query's positive against every target in the batch (design: InfoNCE, tau = 0.02).

    Args:
        query_embeddings: (B, D) float, unit rows.
        target_embeddings: (M, D) float, unit rows; row i is the positive of query i.
        target_ids: (M,) int, equal where targets are identical. Targets identical to a query's positive are then no
            negatives of it. None masks nothing, which is what the paper's code does.
        temperature: divides the cosine similarity; > 0.

    Returns:
        () float, the loss in nats.

    Raises:
        ValueError: fewer targets than queries, or a temperature that is not positive.
    """
    count = len(query_embeddings)
    if len(target_embeddings) < count:
        raise ValueError(f"{count} queries have only {len(target_embeddings)} targets: give each its positive first")
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}, but must be above 0 (the papers use {TEMPERATURE})")
    logits = query_embeddings @ target_embeddings.T / temperature
    own = torch.arange(count, device=logits.device)
    if target_ids is not None:
        is_repeated = target_ids[:count, None] == target_ids
        is_repeated[own, own] = False
        logits = logits.masked_fill(is_repeated, -torch.inf)
    return cross_entropy(logits, own)


class GradCache:
    """A training step on a batch of any size, a chunk at a time (Gao et al. 2021, arXiv 2101.06983).

    All chunks are first encoded without a graph; the loss gives the gradient with respect to every embedding; then
    each chunk is encoded again, with the same random state, and back-propagates its part. The price is a second
    forward pass, a third more operations (half where most weights are frozen); the gradients are those of one big
    batch. The last chunk needs none, and a batch that fits into one chunk is a plain step.

    Under torch.distributed the loss is that of all processes' batch, which may be of unequal sizes, and gradients
    are summed over processes once, at the end of a step: every process is left with the gradient of the whole. The
    loss is computed in float32 or better, whatever autocast says.

    Args:
        encode: any function or module from a chunk (a slice of what `step` is given) to its (n, D) embeddings. A
            DistributedDataParallel module is unwrapped, because it would communicate in every chunk.
        loss_fn: (query embeddings, target embeddings) -> () loss; called with `target_ids` as third argument where
            `step` is given them.
        chunk_size: items encoded at once.

    Raises:
        ValueError: a chunk size below 1.
    """

    def __init__(self, encode: Callable[[Any], Tensor], loss_fn: Callable[..., Tensor], chunk_size: int) -> None:
        if int(chunk_size) < 1:
            raise ValueError(f"chunk_size is {chunk_size}, but a chunk needs at least 1 item")
        self.encode = encode.module if isinstance(encode, DistributedDataParallel) else encode
        self.loss_fn, self.chunk_size = loss_fn, chunk_size

    def step(self, queries: Sequence, targets: Sequence, target_ids: Tensor | None = None) -> Tensor:
        """Add the gradient of the loss to the `.grad` of everything `encode` was computed from.

        Args:
            queries: this process's B queries; anything that has a length and can be sliced.
            targets: its M targets, the positives first, in the order of their queries.
            target_ids: (M,) int64, see info_nce.

        Returns:
            () the loss, detached; the same on every process.

        Raises:
            ValueError: no queries, or fewer targets than queries.
        """
        if not len(queries):
            raise ValueError("a step needs at least one query on every process: make the batch larger")
        if len(targets) < len(queries):
            raise ValueError(f"{len(queries)} queries have only {len(targets)} targets: give each its positive first")
        chunks = [*self._chunks(queries), *self._chunks(targets)]
        room = self.chunk_size
        first_kept = len(chunks)  # the last chunks keep their graphs as long as these fit: no need to encode them twice
        while first_kept and len(chunks[first_kept - 1]) <= room:
            first_kept -= 1
            room -= len(chunks[first_kept])
        states, embeddings = [], []
        with torch.no_grad():
            for chunk in chunks[:first_kept]:
                states.append(_random_state())
                embeddings.append(self.encode(chunk))
        # Under autocast, casts of the weights made without a graph must not be reused with one.
        torch.clear_autocast_cache()
        kept = [self.encode(chunk) for chunk in chunks[first_kept:]]
        embeddings += [one.detach() for one in kept]
        sizes = [len(one) for one in embeddings]
        loss, gradient = self._loss_gradient(torch.cat(embeddings), len(queries), target_ids)
        parts = gradient.split(sizes)
        reduction = _Reduction(self.encode)
        reduction.include(kept)
        torch.autograd.backward(kept, [part.to(one.dtype) for part, one in zip(parts[first_kept:], kept, strict=True)])
        del kept
        for chunk, state, part in zip(chunks, states, parts, strict=False):
            with _replayed(state):
                again = self.encode(chunk)
            reduction.include([again])
            again.backward(part.to(again.dtype))
        reduction.finish()
        return loss

    def _chunks(self, items: Sequence) -> Iterator[Sequence]:
        for start in range(0, len(items), self.chunk_size):
            yield items[start : start + self.chunk_size]

    def _loss_gradient(self, embeddings: Tensor, count: int, target_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """The loss of the global batch, and its gradient with respect to this process's (B + M, D) embeddings."""
        is_half = embeddings.dtype in (torch.bfloat16, torch.float16)
        local = (embeddings.float() if is_half else embeddings).detach().requires_grad_()
        with torch.enable_grad(), torch.autocast(local.device.type, enabled=False):
            queries = _gather(local[:count])
            positives, extra = _gather(local[count : 2 * count]), _gather(local[2 * count :])
            arguments = [queries, torch.cat((positives, extra))]
            if target_ids is not None:
                arguments.append(torch.cat((_gather(target_ids[:count]), _gather(target_ids[count:]))))
            loss = self.loss_fn(*arguments)
        (gradient,) = torch.autograd.grad(loss, local)
        return loss.detach(), gradient


def _random_state() -> tuple[Tensor, Tensor | None]:
    """Generator states that decide dropout: the CPU's, and the current GPU's if one is in use."""
    return torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None


class _replayed:  # noqa: N801 (a context manager, used like a function)
    """Go back to a random state, and afterwards to the present one."""

    def __init__(self, state: tuple[Tensor, Tensor | None]) -> None:
        self.state = state

    def __enter__(self) -> None:
        self.present = _random_state()
        self._set(self.state)

    def __exit__(self, *_: object) -> None:
        self._set(self.present)

    @staticmethod
    def _set(state: tuple[Tensor, Tensor | None]) -> None:
        torch.set_rng_state(state[0])
        if state[1] is not None:
            torch.cuda.set_rng_state(state[1])


# --- between processes ---------------------------------------------------------------------------------------------


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _gather(rows: Tensor) -> Tensor:
    """All processes' rows, in the order of ranks; only this process's carry a graph. Numbers of rows may differ."""
    if _world_size() == 1:
        return rows
    sizes = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(_world_size())]
    dist.all_gather(sizes, torch.tensor([len(rows)], device=rows.device))
    counts = [int(size) for size in sizes]
    padded = rows.detach().new_zeros((max(counts), *rows.shape[1:]))
    padded[: len(rows)] = rows.detach()
    everybody = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everybody, padded)
    parts = [one[:count] for one, count in zip(everybody, counts, strict=True)]
    parts[dist.get_rank()] = rows
    return torch.cat(parts)


class _Reduction:
    """Sums over processes what one step adds to gradients, all in one message; does nothing on a single process.

    What `.grad` held before the step is set aside and added again, or it would be summed as well.
    """

    def __init__(self, encode: Callable) -> None:
        self.is_needed = _world_size() > 1
        self.earlier: dict[Tensor, Tensor | None] = {}  # in the same order on every process
        self.is_module = isinstance(encode, nn.Module)
        if self.is_needed and self.is_module:
            self._add(p for p in encode.parameters() if p.requires_grad)

    def include(self, outputs: Sequence[Tensor]) -> None:
        """Find, before they are back-propagated, what a function's outputs were computed from."""
        if self.is_needed and not self.is_module:
            for output in outputs:
                self._add(_leaves(output))

    def _add(self, leaves: Iterable[Tensor]) -> None:
        for leaf in leaves:
            if leaf not in self.earlier:
                self.earlier[leaf], leaf.grad = leaf.grad, None

    def finish(self) -> None:
        """Sum, and leave the whole gradient in `.grad`; a missing one counts as zero.

        Raises:
            ValueError: the processes do not have the same weights to sum.
        """
        if not self.is_needed:
            return
        shapes = str([tuple(leaf.shape) for leaf in self.earlier]).encode()
        flat = torch.cat([torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in self.earlier])
        same = torch.tensor([crc32(shapes), -crc32(shapes)], device=flat.device)
        dist.all_reduce(same, dist.ReduceOp.MAX)
        if same[0] != -same[1]:
            raise ValueError("processes computed with different weights: give GradCache a module instead of a function")
        dist.all_reduce(flat)
        parts = flat.split([leaf.numel() for leaf in self.earlier])
        for (leaf, earlier), part in zip(self.earlier.items(), parts, strict=True):
            leaf.grad = part.view_as(leaf).clone() if earlier is None else earlier + part.view_as(leaf)


def _leaves(output: Tensor) -> list[Tensor]:
    """Whatever with a gradient `output` was computed from."""
    leaves, waiting, seen = [], [output.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        waiting += [following for following, _ in node.next_functions]
    return leaves
