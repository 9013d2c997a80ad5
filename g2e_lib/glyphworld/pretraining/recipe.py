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
        bfloat16: whether the second phase multiplies matrices in bfloat16; a third faster on a CPU that can.
        schedule: (step, learning rate) points of the second phase, joined by straight lines.
        lessons: (first step, name in corpus.LESSONS), in order.
        save_every: steps between checkpoints.
    """

    seed: int = 0
    vision_steps: int = 1000
    vision_images: int = 64
    vision_learning_rate: float = 1e-3
    steps: int = 4600
    conversations: int = 32
    chunk_tokens: int = 1024
    bfloat16: bool = True
    schedule: tuple[tuple[int, float], ...] = (
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
    # The lessons of the run that made the shipped model; they were chosen while it went on, by its competence on
    # validation scenes. What is in a context is learned within a few hundred steps of dialogues. What belongs to what
    # was not, until it was listed word next to word, and about few objects: then in five hundred steps, and soon after
    # for all objects.
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
