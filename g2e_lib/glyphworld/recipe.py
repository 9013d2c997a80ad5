"""What determines a base model, besides the code."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """The settings of pre-training; they describe a run completely, on one machine and number of processes.

    Attributes:
        vision_steps: optimisation steps of the first phase, with `vision_images` pictures each.
        steps: optimisation steps of the second phase, with `conversations` each.
        chunk_tokens: padded tokens in one forward pass; smaller fits the processor's cache, results are the same.
        learning_rate: of the second phase, peak; linear warm-up, constant, linear decay to zero.
        decay_steps: how many of the last steps decay.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    vision_steps: int = 1000
    vision_images: int = 64
    vision_learning_rate: float = 1e-3
    steps: int = 4900
    conversations: int = 32
    chunk_tokens: int = 1024
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    decay_steps: int = 3100
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    save_every: int = 100


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Of the second phase: linear warm-up, constant, linear decay to zero."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    return recipe.learning_rate * min(warm, (recipe.steps - step) / recipe.decay_steps)
