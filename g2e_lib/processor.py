"""Images and texts of items become tensors: opening, resizing, and a Qwen2-VL processor that needs no torchvision.

transformers' own Qwen2VLProcessor also builds a video processor, which cannot be imported without torchvision.
`import g2e_lib` makes AutoProcessor aware of the class below, so a checkpoint that names it loads without remote code.
"""

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from transformers import AutoProcessor, Qwen2VLConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.qwen2_vl.processing_qwen2_vl import Qwen2VLProcessor
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from g2e_lib.data import missing_image

MIN_SIDE = 4  # pixels; a thinner image has no content, and resizing it invents one
MAX_ASPECT_RATIO = 200  # Qwen2-VL's own limit
MAX_THREADS = 16  # that open images ahead of a GPU


class G2EProcessor(Qwen2VLProcessor):
    """Qwen2VLProcessor without its video half; calls, chat template and outputs are the parent's."""

    def __init__(
        self,
        image_processor: Qwen2VLImageProcessorPil | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)


AutoProcessor.register(Qwen2VLConfig, G2EProcessor, exist_ok=True)


# --- images --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageRule:
    """How an image is shown to the model; 0 leaves a limit out. Qwen2-VL's own rounding of sides comes last.

    Attributes:
        square: both sides, in pixels, whatever the aspect ratio was.
        min_side: the shorter side is scaled up to this.
        max_side: the longer side is scaled down to this.
        max_aspect: a longer image is squeezed to this ratio of its sides first.
        min_pixels: area, instead of the image processor's own limit.
        max_pixels: likewise.
        has_markers: stand between <|vision_start|> and <|vision_end|>, as Qwen2-VL was trained. The code that Gen2Embed
            released leaves them out, by which visual tokens also get the positions of plain text.
    """

    square: int = 0
    min_side: int = 0
    max_side: int = 0
    max_aspect: float = 0.0
    min_pixels: int = 0
    max_pixels: int = 0
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
    """Look a rule up by name; an ImageRule is returned as it is.

    Raises:
        ValueError: the name is unknown.
    """
    if isinstance(rule, ImageRule):
        return rule
    if rule not in IMAGE_RULES:
        raise ValueError(f"unknown image rule {rule!r}: choose one of {', '.join(IMAGE_RULES)}")
    return IMAGE_RULES[rule]


def open_image(source: Path | Image.Image) -> Image.Image:
    """Load an image fully, as RGB.

    Raises:
        ValueError: the file is missing, is no image, is cut off, or has sides Qwen2-VL cannot take.
    """
    name = source if isinstance(source, Path) else f"an image of {source.width}x{source.height} pixels"
    try:
        image = Image.open(source) if isinstance(source, Path) else source
        image = image.convert("RGB")
    except FileNotFoundError:
        raise missing_image(source) from None
    except UnidentifiedImageError:
        raise ValueError(f"image {name} is not an image file PIL can read: replace or remove it") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"image {name} is damaged ({error}): download it again or remove it") from None
    short, long = sorted(image.size)
    if short < MIN_SIDE or long > MAX_ASPECT_RATIO * short:
        raise ValueError(
            f"image {name} is {image.width}x{image.height} pixels, but both sides must have at least {MIN_SIDE} "
            f"pixels and the longer one at most {MAX_ASPECT_RATIO} times the shorter: pad or remove it"
        )
    return image


def image_size(source: Path | Image.Image) -> tuple[int, int]:
    """Width and height, from the file's header where that is enough.

    Raises:
        ValueError: as open_image.
    """
    size = (0, 0)
    try:
        if isinstance(source, Image.Image):
            size = source.size
        else:
            with Image.open(source) as image:
                size = image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return open_image(source).size  # raises, naming the image
    is_thin = min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size)
    return open_image(source).size if is_thin else size


def default_threads(device: str) -> int:
    """How many threads open images ahead: none for a CPU, which has no time to spare."""
    return 0 if device == "cpu" else max(1, min(MAX_THREADS, (os.cpu_count() or 1) - 1))


class Prefetch:
    """Prepares things in threads a little ahead of their use, and keeps each until it has been used.

    Args:
        prepare: makes one thing from its key.
        keys: all keys, in order of use.
        threads: at work at the same time, at least 1.
        ahead: things prepared beyond those asked for; bounds memory.
    """

    def __init__(
        self, prepare: Callable[[Hashable], Any], keys: Iterable[Hashable], threads: int, ahead: int = 64
    ) -> None:
        self._prepare, self._waiting, self._ahead = prepare, deque(keys), ahead
        self._pool = ThreadPoolExecutor(threads)
        self._made: dict[Hashable, Future] = {}

    def get(self, keys: Sequence[Hashable]) -> list[Any]:
        """What was prepared for the next keys; what came before them is forgotten, so a batch can be asked for again.

        Raises:
            Exception: whatever `prepare` raised.
        """
        while keys and self._made and next(iter(self._made)) != keys[0]:
            del self._made[next(iter(self._made))]
        while self._waiting and len(self._made) < len(keys) + self._ahead:
            key = self._waiting.popleft()
            self._made[key] = self._pool.submit(self._prepare, key)
        return [self._made[key].result() for key in keys]

    def close(self) -> None:
        """Stop; what is not yet begun is not prepared."""
        self._pool.shutdown(wait=True, cancel_futures=True)
