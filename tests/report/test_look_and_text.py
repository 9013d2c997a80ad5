"""The common ground of tables and figures: style, saving, bold, LaTeX."""

import re

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb

from g2e_lib.report import look, text


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def one(value, low, high):
    return {"value": value, "low": low, "high": high, "n": 9}


def test_interval_format():
    assert text.interval({"value": -0.04, "low": -1, "high": 1.25}) == "-0.0 [-1.0, 1.2]"


def lightness(colour):
    """CIE L* of a colour: what is left of it in black and white."""
    channels = np.array(to_rgb(colour))
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return 116 * (linear @ [0.2126, 0.7152, 0.0722]) ** (1 / 3) - 16


def test_colours_differ_in_black_and_white():
    values = [lightness(colour) for colour in look.COLOURS]
    assert np.diff(values).min() > 7  # dark to light
    assert len(set(look.MARKERS)) == len(set(map(str, look.LINES))) == len(look.COLOURS)
    assert len({str(look.look(index)) for index in range(20)}) == 20  # more series than colours


def test_bars_have_their_values_and_intervals_and_gaps():
    look.use_style()
    figure, axis = plt.subplots()
    look.bars(axis, ["x", "y"], {"a": [one(40, 30, 55), None], "b": [one(0, 0, 0), one(1, 0.5, 2)]})
    heights = [[bar.get_height() for bar in container] for container in axis.containers if len(container) == 2]
    assert heights[0][0] == 40
    assert np.isnan(heights[0][1])
    ends = {round(float(y), 6) for lines in axis.collections for line in lines.get_segments() for _, y in line}
    assert {30.0, 55.0, 0.5, 2.0} <= ends
    assert [text.get_text() for text in axis.texts] == ["0"]  # measured and none found is not a gap


def test_figures_are_the_same_bytes_every_time(tmp_path):
    for folder in ("one", "two"):
        look.use_style()
        figure, axis = plt.subplots()
        look.points(axis, [1, 2], [one(1, 0, 2), None], 1, label="a")
        look.finish(figure, axis, 1)
        look.save_figure(figure, tmp_path / folder, "f")
    for name in ("f.png", "f.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.fixture
def table():
    cells = {"": ["paper", "ours_1", "ours_2", "b - a"], "IND": ["99.0", "5.0 [4.0, 6.0]", "10.0 [9.0, 11.0]", "+5.0"]}
    return pd.DataFrame(cells | {"OOD": ["–", "7.0", "7.0", "+0.0"], "n": ["–", "3", "3", "3"]})


def test_the_best_of_ours_is_bold_and_numbers_are_compared_not_texts(table):
    text.mark_best(table, [1, 2], ["IND", "OOD"])
    assert table.attrs["best"] == [[2, "IND"], [1, "OOD"], [2, "OOD"]]  # 10 above 5; a tie is two
    assert text.mark_best(table, [1, 2], ["IND"], lowest=True).attrs["best"] == [[1, "IND"]]
    assert text.mark_best(table, [1], ["IND", "OOD"], by_row=True).attrs["best"] == [[1, "OOD"]]


def test_tables_are_written_three_times_and_round_trip(tmp_path, table):
    text.mark_best(table, [1, 2], ["IND"])
    text.save_table(table, tmp_path, "t")
    read = pd.read_csv(tmp_path / "t.csv", dtype=str).rename(columns={"Unnamed: 0": ""})
    pd.testing.assert_frame_equal(read, table)
    assert "| **10.0 [9.0, 11.0]** |" in (tmp_path / "t.md").read_text()
    tex = (tmp_path / "t.tex").read_text()
    assert r"ours\_2 & \textbf{10.0 [9.0, 11.0]} & 7.0 & 3 \\" in tex


def test_tex_is_well_formed(table):
    table.loc[4] = ["50 % of a&b_c {x} #1 $ ~ ^ \\", "–", "1", "2"]
    lines = text.to_tex(table).splitlines()
    assert lines[0] == r"\begin{tabular}{lrrr}"
    assert [lines[1], lines[3], lines[-2], lines[-1]] == [r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}"]
    for line in (lines[2], *lines[4:-2]):
        assert line.endswith(r" \\")
        assert len(re.findall(r"(?<!\\)&", line)) == 3  # four cells, whatever stands in them
        assert not re.search(r"(?<!\\)[%#$_]", line)
        bare = re.sub(r"\\[{}]", "", line)
        assert bare.count("{") == bare.count("}")


def test_a_row_that_begins_with_a_bracket_is_no_option():
    assert "\\midrule\n{}[x] " in text.to_tex(pd.DataFrame({"a": ["[x]"]}))


def test_pipes_do_not_break_markdown():
    assert "x\\|y" in text.to_markdown(pd.DataFrame({"a": ["x|y"]}))
