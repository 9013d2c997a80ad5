"""Opening images: what cannot be shown to a model is refused by name."""

from pathlib import Path

from PIL import Image, UnidentifiedImageError

from g2e_lib.data.items import missing_image

MIN_SIDE = 4  # pixels; a thinner image has no content, and resizing it invents one
MAX_ASPECT_RATIO = 200  # Qwen2-VL's own limit


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
    """Width and height, from the file's header where that is enough; raises as open_image does."""
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
