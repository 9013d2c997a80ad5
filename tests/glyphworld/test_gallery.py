import matplotlib.pyplot as plt

from g2e_lib.glyphworld import benchmark, gallery


def test_pictures_draw_and_repeat(small_build):
    rows, _ = benchmark.load(small_build)
    for figure in (
        gallery.objects_figure(),
        gallery.scenes_figure(1),
        gallery.looks_figure(1),
        gallery.rows_figure(rows, ["ColourQA", "Crop"]),
    ):
        figure.canvas.draw()
        assert sum(len(axis.images) for axis in figure.axes) >= 5
        plt.close(figure)


def test_examples_belong_to_validation():
    items = gallery.example_questions(3)
    assert len(items) == 7
    assert sum("image" in item for item in items.values()) == 6
