"""How images are shown to a model, and threads that open them ahead."""

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from PIL import Image

MAX_THREADS = 16  # that open images ahead of a GPU


@dataclass(frozen=True)
class ImageRule:
    """How an image is shown to the model; 0 leaves a limit out. Qwen2-VL's own rounding of sides comes last."""

    square: int = 0  # both sides, in pixels, whatever the aspect ratio was
    min_side: int = 0  # the shorter side is scaled up to this
    max_side: int = 0  # the longer side is scaled down to this
    max_aspect: float = 0.0  # a longer image is squeezed to this ratio of its sides first
    min_pixels: int = 0  # area, instead of the image processor's own limit; max_pixels likewise
    max_pixels: int = 0
    # Stand between <|vision_start|> and <|vision_end|>, as Qwen2-VL was trained. The code that Gen2Embed released
    # leaves them out, by which visual tokens also get the positions of plain text.
    has_markers: bool = True

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height after this rule.

        >>> IMAGE_RULES["paper_eval"].size(2000, 500)
        (992, 496)
        """
        if self.square:
            return self.square, self.square
        if self.max_aspect:
            width, height = (round(min(a, self.max_aspect * b)) for a, b in ((width, height), (height, width)))
        scale = 1.0
        if self.min_side and min(width, height) < self.min_side:
            scale = self.min_side / min(width, height)
        elif self.max_side and max(width, height) > self.max_side:
            scale = self.max_side / max(width, height)
        return round(width * scale), round(height * scale)

    def resize(self, image: Image.Image) -> Image.Image:
        """The image at that size; itself where nothing changes."""
        size = self.size(*image.size)
        return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


# Gen2Embed trains on squares, and mines and evaluates on sides between 336 and 992 pixels; "released" is its code.
IMAGE_RULES = {
    "native": ImageRule(),
    "paper_train": ImageRule(square=448),
    "paper_eval": ImageRule(min_side=336, max_side=992, max_aspect=2.0),
    "released_train": ImageRule(square=448, has_markers=False),
    "released_eval": ImageRule(min_side=336, max_side=992, max_aspect=2.0, has_markers=False),
}


def get_image_rule(rule: str | ImageRule) -> ImageRule:
    """Look a rule up by name, a ValueError where it is unknown; an ImageRule is returned as it is."""
    if isinstance(rule, ImageRule):
        return rule
    if rule not in IMAGE_RULES:
        raise ValueError(f"unknown image rule {rule!r}: choose one of {', '.join(IMAGE_RULES)}")
    return IMAGE_RULES[rule]


def default_threads(device: str) -> int:
    """How many threads open images ahead: none for a CPU, which has no time to spare."""
    return 0 if device == "cpu" else max(1, min(MAX_THREADS, (os.cpu_count() or 1) - 1))


class Prefetch:
    """Prepares things in threads a little ahead of their use, and keeps each until it has been used.

    A context manager; what is not yet begun at its end is not prepared. Keys come in order of use; 0 threads prepare a
    thing when it is asked for; `ahead` more than were asked for are prepared. `get` raises what `prepare` did.
    """

    def __init__(
        self, prepare: Callable[[Hashable], Any], keys: Iterable[Hashable], threads: int, ahead: int = 64
    ) -> None:
        self._prepare, self._waiting, self._ahead = prepare, deque(keys), ahead
        self._pool = ThreadPoolExecutor(threads) if threads and self._waiting else None
        self._made: dict[Hashable, Future] = {}

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def get(self, keys: Sequence[Hashable]) -> list[Any]:
        """What was prepared for the next keys; what came before is forgotten, so a batch can be asked for again."""
        if not self._pool:
            return [self._prepare(key) for key in keys]
        while keys and self._made and next(iter(self._made)) != keys[0]:
            del self._made[next(iter(self._made))]
        while self._waiting and len(self._made) < len(keys) + self._ahead:
            key = self._waiting.popleft()
            self._made[key] = self._pool.submit(self._prepare, key)
        return [self._made[key].result() for key in keys]
