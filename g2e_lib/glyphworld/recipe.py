"""What determines a base model, besides the code."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """The settings of pre-training; they describe a run completely, on one machine and number of processes.

    Attributes:
        vision_steps: optimisation steps of the first phase, with `vision_images` pictures each.
        steps: optimisation steps of the second phase, with `conversations` each.
        chunk_tokens: padded tokens in one forward pass; smaller fits the processor's cache, results are the same.
        schedule: (step, learning rate) points of the second phase, joined by straight lines.
        lessons: (first step, name in corpus.LESSONS), in order.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    vision_steps: int = 1000
    vision_images: int = 64
    vision_learning_rate: float = 1e-3
    steps: int = 3500
    conversations: int = 32
    chunk_tokens: int = 1024
    schedule: tuple[tuple[int, float], ...] = (
        (-1, 0.0),
        (49, 2e-3),
        (1800, 2e-3),
        (2450, 2e-3 * 2450 / 3100),
        (2500, 2e-3),
        (3100, 2e-3),
        (3500, 0.0),
    )
    # At step 2450 of the run that made the shipped model, what is in a context had been learned, but not what belongs
    # to what. A hundred steps of repetition taught the model to look back, and it went on with questions only.
    lessons: tuple[tuple[int, str], ...] = (
        (0, "everything"),
        (2450, "repetition"),
        (2570, "dialogues"),
        (3200, "everything"),
    )
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    save_every: int = 50


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
