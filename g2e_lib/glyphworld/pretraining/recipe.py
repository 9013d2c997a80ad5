"""What determines a base model, besides the code."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """The settings of pre-training; they describe a run completely, on one machine and number of processes."""

    seed: int = 0
    vision_steps: int = 1000  # of the first phase
    vision_images: int = 64  # a step
    vision_learning_rate: float = 1e-3
    steps: int = 4600  # of the second phase
    conversations: int = 32  # a step
    chunk_tokens: int = 1024  # padded, in one forward pass; decides speed alone
    bfloat16: bool = True  # multiply the second phase's matrices so; a third faster on a CPU that can
    schedule: tuple[tuple[int, float], ...] = (  # (step, learning rate), joined by straight lines
        (-1, 0.0),
        (49, 4e-3),
        (1050, 4e-3),
        (1080, 1e-3),
        (1500, 1e-3),
        (1520, 2e-3),
        (3500, 2e-3),
        (3699, 2e-3 * 1301 / 1500),
        (3700, 1.7e-3),
        (4600, 0.0),
    )
    # First step and name in corpus.LESSONS; chosen while the shipped model trained, by its competence on validation
    # scenes. What is in a context is learned within a few hundred steps of dialogues. What belongs to what was not,
    # until it was listed word next to word, and about few objects: then in five hundred, and soon for all objects.
    lessons: tuple[tuple[int, str], ...] = (
        (0, "repetition"),
        (100, "dialogues"),
        (600, "binding"),
        (1050, "dialogues and binding"),
        (1500, "few objects"),
        (1850, "few objects, listed"),
        (2500, "listed"),
        (2800, "named"),
        (3150, "everything and binding"),
    )
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    save_every: int = 50  # steps


def learning_rate_at(step: int, recipe: Recipe) -> float:
    """Of the second phase.

    >>> learning_rate_at(24, Recipe(schedule=((-1, 0.0), (49, 1.0))))
    0.5
    """
    steps, rates = zip(*recipe.schedule, strict=True)
    return float(np.interp(step, steps, rates))


def lesson_at(step: int, recipe: Recipe) -> str:
    """What is taught in a step of the second phase.

    >>> [lesson_at(step, Recipe(lessons=((0, "a"), (5, "b")))) for step in (4, 5)]
    ['a', 'b']
    """
    return next(name for first, name in reversed(recipe.lessons) if first <= step)
