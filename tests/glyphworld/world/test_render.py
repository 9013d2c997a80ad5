import hashlib
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from g2e_lib.glyphworld.world.render import CELL, STEEP, TILTED, Style, cell_of, glyph_mask, render
from g2e_lib.glyphworld.world.scenes import Scene, Thing, sample_scene
from g2e_lib.glyphworld.world.vocabulary import BACKGROUNDS, COLOURS, GLYPH_OF, OBJECTS


def test_the_same_bytes_on_every_machine():
    rng = random.Random(0)
    scenes = [sample_scene(rng, None) for _ in range(40)]
    looks = (Style(), Style(TILTED, noise=24), Style(STEEP))
    drawn = b"".join(render(s, view, look).tobytes() for s in scenes for view, look in enumerate(looks))
    assert hashlib.sha256(drawn).hexdigest()[:16] == "b6f8ec8b734711ea"


def test_objects_are_where_the_scene_says():
    rng = random.Random(1)
    for _ in range(50):
        scene = sample_scene(rng, None)
        pixels = np.array(render(scene))
        assert pixels.shape == (64, 64, 3)
        for place in range(4):
            cell = cell_of(pixels, place)
            thing = next((t for t in scene.things if t.place == place), None)
            is_background = (cell == BACKGROUNDS[scene.background]).all(-1)
            if thing is None:
                assert is_background.all()
            else:
                assert 0.05 < 1 - is_background.mean() < 0.75
                assert (cell == COLOURS[thing.colour]).all(-1).any()
                border = np.concatenate(
                    (is_background[0], is_background[-1], is_background[:, 0], is_background[:, -1])
                )
                assert border.all()  # nothing is cut off


def test_glyphs_look_as_a_font_engine_draws_them():
    """Our integer rasteriser against PIL's FreeType, aligned by bounding box."""
    import matplotlib

    path = f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    for name in OBJECTS:
        mask = glyph_mask(name, 26) / 16
        font = ImageFont.truetype(path, 200)
        canvas = Image.new("L", (400, 400))
        ImageDraw.Draw(canvas).text((60, 60), GLYPH_OF[name], font=font, fill=255)
        reference = canvas.crop(canvas.getbbox()).resize(mask.shape[::-1], Image.Resampling.BOX)
        # Shifts of a fraction of a pixel remain; a hole filled or a part missing would differ by far more.
        assert np.abs(mask - np.array(reference) / 255).mean() < 0.14, name


def test_no_two_objects_look_alike():
    def square(name):
        mask = np.zeros((26, 26))
        drawn = glyph_mask(name, 26) / 16
        mask[: drawn.shape[0], : drawn.shape[1]] = drawn
        return mask

    masks = {name: square(name) for name in OBJECTS}
    for a in OBJECTS:
        for b in OBJECTS:
            assert a == b or np.abs(masks[a] - masks[b]).mean() > 0.03, (a, b)


def test_views_differ_and_repeat():
    scene = Scene("sky", (Thing(1, "cat", "red"), Thing(2, "sun", "black")))
    assert render(scene, 3).tobytes() == render(scene, 3).tobytes()
    assert render(scene, 3).tobytes() != render(scene, 4).tobytes()


def test_noise_is_bounded():
    scene = Scene("gray", ())
    difference = np.array(render(scene, 0, Style(noise=24))).astype(int) - 192
    assert difference.min() >= -24
    assert difference.max() <= 24
    assert abs(difference.mean()) < 1
    assert len(difference) == CELL * 2
