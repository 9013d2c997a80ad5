"""Muon and AdamW as one optimizer, for one process or several."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from g2e_lib.project.store import atomic_path


def rank() -> int:
    """This process's number among those that train together."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over the processes, in one exchange."""
    if world_size() == 1:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    for tensor, new in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(new.view_as(tensor))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    sum_over_processes(gradients)
    for gradient in gradients:
        gradient /= world_size()


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Bring all singular values of a matrix close to 1 by the quintic Newton-Schulz iteration of Muon, in float32."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = wide / wide.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonalized updates, scaled to AdamW's rates; torch's own iterates in slow bfloat16."""

    def __init__(self, matrices: list[nn.Parameter], weight_decay: float, momentum: float = 0.95) -> None:
        super().__init__(matrices, {"lr": 1e-3, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self) -> None:
        """Update every matrix from its gradient; processes share the orthogonalizing."""
        for group in self.param_groups:
            rate, momentum = group["lr"], group["momentum"]
            updates = [torch.zeros_like(matrix) for matrix in group["params"]]
            for index, matrix in enumerate(group["params"]):
                buffer = self.state[matrix].setdefault("momentum_buffer", torch.zeros_like(matrix))
                buffer.lerp_(matrix.grad, 1 - momentum)
                if index % world_size() == rank():
                    updates[index] = orthogonalize(matrix.grad.lerp(buffer, momentum))
            sum_over_processes(updates)
            for matrix, update in zip(group["params"], updates, strict=True):
                matrix.mul_(1 - rate * group["weight_decay"])
                matrix.add_(update, alpha=-rate * 0.2 * max(matrix.shape) ** 0.5)


# Share of the learning rate for word embeddings, which stay close to where the vision tower has learned to point.
WORDS_RATE = 0.1


class Optimizer:
    """Muon on the hidden weight matrices, AdamW on everything else, as one.

    Muon needs half the samples here; embeddings, norms, biases and the patch convolution are outside its theory.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], weight_decay: float) -> None:
        words = [p for name, p in parameters.items() if "embed_tokens" in name]
        matrices = [p for name, p in parameters.items() if p.ndim == 2 and "embed" not in name]
        others = [p for name, p in parameters.items() if p.ndim != 2 or "embed" in name and "embed_tokens" not in name]
        self.parameters = parameters
        self.parts = (
            Muon(matrices, weight_decay),
            torch.optim.AdamW(
                [{"params": group, "scale": scale} for group, scale in ((others, 1.0), (words, WORDS_RATE)) if group],
                betas=(0.9, 0.98),
                weight_decay=0.0,
                fused=True,
            ),
        )

    def step(self, learning_rate: float, max_gradient_norm: float) -> float:
        """Clip, update, clear the gradients; returns the gradient norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), max_gradient_norm)
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group.get("scale", 1.0)
            part.step()
            part.zero_grad()
        return float(norm)

    def save(self, path: Path, step: int) -> None:
        """Write weights, moments and the number of finished steps as safetensors, replacing `path` atomically."""
        tensors = {"step": torch.tensor(step)}
        states = {parameter: part.state[parameter] for part in self.parts for parameter in part.state}
        for name, parameter in self.parameters.items():
            tensors[f"weight {name}"] = parameter.detach()
            tensors |= {f"{key} {name}": value for key, value in states[parameter].items()}
        with atomic_path(path) as partial:
            save_file(tensors, partial)

    def load(self, path: Path) -> int:
        """Restore what `save` wrote; returns the number of finished steps, 0 if there is no file."""
        if not path.exists():
            return 0
        tensors = load_file(path)
        names = {parameter: name for name, parameter in self.parameters.items()}
        for part in self.parts:
            for parameter in (p for group in part.param_groups for p in group["params"]):
                name = names[parameter]
                parameter.data.copy_(tensors[f"weight {name}"])
                keys = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # AdamW's three, Muon's one
                saved = {key: tensors[f"{key} {name}"].clone() for key in keys if f"{key} {name}" in tensors}
                part.state[parameter] = saved
        return int(tensors["step"])
