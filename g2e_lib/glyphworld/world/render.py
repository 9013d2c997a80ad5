"""Draw scenes as 64x64 pictures, to the same bytes on every machine.

Font engines differ from version to version, so glyph outlines (integers) are rasterised here, in integers only.
"""

import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from fontTools.pens.basePen import BasePen
from fontTools.ttLib import TTFont
from PIL import Image

from g2e_lib.glyphworld.world.scenes import Scene, Thing
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, GLYPH_OF

CELL = 32  # pixels; a picture is 2x2 cells, and one cell is one visual token of the base model
SIZES = (20, 22, 24, 26)  # longer side of a glyph, pixels
SAMPLES = 4  # sub-samples a pixel and axis: 17 levels of coverage
CURVE_STEPS = 6  # straight pieces a quadratic curve
UNIT = 1 << 12  # fixed-point steps a sub-sample

# Rotations as exact integer (cosine, sine) over 25: 16.3 degrees, and 36.9 degrees.
UPRIGHT, TILTED, STEEP = (25, 0), (24, 7), (20, 15)


@dataclass(frozen=True)
class Style:
    """How a scene is drawn; the default is the in-distribution look."""

    rotation: tuple[int, int] = UPRIGHT  # cosine and sine times 25; each object turns this way or the opposite
    noise: int = 0  # largest change of a channel, 0-255


class _Outline(BasePen):
    """Collects the closed polygons of a glyph, curves flattened, in font units."""

    def __init__(self, glyph_set: object) -> None:
        super().__init__(glyph_set)
        self.polygons: list[list[tuple[int, int]]] = []

    def _moveTo(self, point: tuple[int, int]) -> None:  # noqa: N802 (fontTools' names)
        self.polygons.append([point])

    def _lineTo(self, point: tuple[int, int]) -> None:  # noqa: N802
        self.polygons[-1].append(point)

    def _qCurveToOne(self, control: tuple[int, int], end: tuple[int, int]) -> None:  # noqa: N802
        start, n = self.polygons[-1][-1], CURVE_STEPS
        for i in range(1, n + 1):
            a, b, c = (n - i) ** 2, 2 * i * (n - i), i * i  # Bernstein weights times n^2
            self.polygons[-1].append(
                tuple((a * s + b * k + c * e) // (n * n) for s, k, e in zip(start, control, end, strict=True))
            )


@cache
def _font() -> TTFont:
    return TTFont(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def outline(name: str) -> tuple[np.ndarray, ...]:
    """The polygons of an object's glyph: (points, 2) int64 each, x right and y down, font units times 64."""
    font = _font()
    pen = _Outline(font.getGlyphSet())
    font.getGlyphSet()[font.getBestCmap()[ord(GLYPH_OF[name])]].draw(pen)
    # Half-point coordinates of implied on-curve points are exact once scaled.
    return tuple(np.array([(round(64 * x), round(-64 * y)) for x, y in p], dtype=np.int64) for p in pen.polygons)


@cache
def glyph_mask(name: str, size: int, rotation: tuple[int, int] = UPRIGHT) -> np.ndarray:
    """Sub-samples, 0 to 16, an object's glyph covers: (height, width) int64, read-only; non-zero winding rule."""
    cosine, sine = rotation
    turn = np.array(((cosine, sine), (-sine, cosine)))
    polygons = [polygon @ turn for polygon in outline(name)]
    low = np.min([p.min(0) for p in polygons], axis=0)
    extent = np.max([p.max(0) for p in polygons], axis=0) - low
    scale = size * SAMPLES * UNIT
    width, height = (int(-(-e * size // extent.max())) for e in extent)
    winding = np.zeros((height * SAMPLES, width * SAMPLES + 1), dtype=np.int64)
    rows = np.arange(height * SAMPLES) * UNIT + UNIT // 2  # sub-sample centres, fixed point
    for polygon in polygons:
        points = (polygon - low) * scale // extent.max()
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            hit = np.flatnonzero((rows >= min(y0, y1)) & (rows < max(y0, y1)))
            if len(hit):
                crossing = x0 + (rows[hit] - y0) * (x1 - x0) // (y1 - y0)
                first = np.clip((crossing + UNIT // 2) // UNIT, 0, width * SAMPLES)
                winding[hit, first] += 1 if y1 > y0 else -1
    covered = np.cumsum(winding, axis=1)[:, :-1] != 0
    mask = covered.reshape(height, SAMPLES, width, SAMPLES).sum((1, 3))
    mask.flags.writeable = False
    return mask


def _draw(cell: np.ndarray, thing: Thing, rng: random.Random, style: Style) -> None:
    cosine, sine = style.rotation
    rotation = (cosine, sine if rng.random() < 0.5 else -sine)
    mask = glyph_mask(thing.name, rng.choice(SIZES), rotation)
    height, width = mask.shape
    top, left = rng.randint(1, CELL - 1 - height), rng.randint(1, CELL - 1 - width)
    area = cell[top : top + height, left : left + width]
    full, coverage = SAMPLES * SAMPLES, mask[..., None]
    area[:] = (area * (full - coverage) + np.array(COLOURS[thing.colour]) * coverage + full // 2) // full


def render(scene: Scene, view: int = 0, style: Style | None = None, place: int | None = None) -> Image.Image:
    """Draw a scene as a 64x64 RGB picture, or the 32x32 cell at one place of it (0..3, row-major).

    Another view draws the same content with other sizes, offsets and noise; `style` None is the plain one.
    """
    style = style or Style()
    rng = random.Random(f"{scene.content} | view {view}")
    pixels = np.empty((2 * CELL, 2 * CELL, 3), dtype=np.int64)
    pixels[:] = BACKGROUNDS[scene.background]
    for thing in scene.things:
        _draw(cell_of(pixels, thing.place), thing, rng, style)
    if style.noise:
        noise = np.frombuffer(rng.randbytes(pixels.size), dtype=np.uint8).astype(np.int64).reshape(pixels.shape)
        pixels = np.clip(pixels + noise * (2 * style.noise + 1) // 256 - style.noise, 0, 255)
    return Image.fromarray((pixels if place is None else cell_of(pixels, place)).astype(np.uint8))


def cell_of(pixels: np.ndarray, place: int) -> np.ndarray:
    """The 32x32 view of a picture's pixels, (64, 64, 3) of any dtype, at a place (0..3, row-major)."""
    top, left = (CELL * k for k in divmod(place, 2))
    return pixels[top : top + CELL, left : left + CELL]
