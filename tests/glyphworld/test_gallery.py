from PIL import Image

from g2e_lib.glyphworld import benchmark, gallery


def test_the_gallery_is_kept_and_repeats(small_build, tmp_path):
    rows, _ = benchmark.load(small_build)
    tiles = gallery.save_gallery(rows, ["ColourQA", "Crop"], tmp_path, seed=1)
    assert gallery.save_gallery(rows, ["ColourQA", "Crop"], tmp_path, seed=1) == tiles
    assert [len(tiles[part]) for part in ("objects", "scenes", "looks", "rows")] == [60, 5, 5, 12]
    for tile in (one for some in tiles.values() for one in some):
        assert tile["image"] or tile["text"]
        if tile["image"]:
            Image.open(tmp_path / tile["image"]).verify()
    assert tiles["rows"][0]["caption"] == rows["ColourQA"][0].query.text
    assert tiles["rows"][1]["text"] == rows["ColourQA"][0].candidates[0].text


def test_examples_belong_to_validation():
    items = gallery.example_questions(3)
    assert len(items) == 7
    assert sum("image" in item for item in items.values()) == 6
