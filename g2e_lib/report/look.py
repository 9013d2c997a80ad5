"""One look for all figures, and the few shapes they are made of. From stored results only: no model, no torch."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image

from g2e_lib.project.store import atomic_path
from g2e_lib.report.text import Drawn

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.2  # inches, of a two-column paper
PIXELS_PER_INCH, SCREEN = 200, 96  # of saved figures, and of a browser's inch

# Told apart by colour-blind readers (after Okabe and Ito), and in black and white by lightness, dark to light.
COLOURS = ("#1f1f1f", "#0b5394", "#c4440c", "#0f9d76", "#e08fc0", "#7cc6f2", "#f6de6c")
HATCHES = ("", "", "////", "", "....", "\\\\\\\\", "")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))


def use_style() -> None:
    """One look for all figures: colour-blind safe, fit for black and white, readable at half size."""
    sns.set_theme(
        context="paper",
        style="whitegrid",
        palette=sns.color_palette(COLOURS),
        rc={
            "figure.dpi": 110,
            "figure.figsize": (TWO_COLUMNS, 2.6),
            "savefig.dpi": PIXELS_PER_INCH,
            "savefig.bbox": "tight",
            "svg.hashsalt": "g2e_lib",  # otherwise every SVG gets new random ids
            "svg.fonttype": "none",
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.labelsize": 9,
            "axes.edgecolor": "0.3",
            "grid.color": "0.88",
            "hatch.linewidth": 0.6,
            "legend.fontsize": 8,
            "xtick.labelsize": 8,
            "ytick.labelsize": 8,
        },
    )


def grid(count: int, columns: int, height: float, **shared: Any) -> tuple[Figure, list[Axes]]:  # noqa: ANN401
    """So many axes in rows of `columns`, each `height` inches high; what is left over of the last row is blank."""
    rows = -(-count // columns)
    drawn, axes = panels(rows, columns, height * rows, **shared)
    for axis in axes.flat[count:]:
        axis.set_axis_off()
    return drawn, list(axes.flat[:count])


def panels(rows: int, columns: int, height: float, width: float = TWO_COLUMNS, **shared: Any) -> tuple[Figure, Any]:  # noqa: ANN401 (options of matplotlib)
    """A figure in our look with rows x columns axes; sizes in inches."""
    use_style()
    return plt.subplots(rows, columns, figsize=(width, height), squeeze=False, **shared)


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the series with this number; the same in every figure.

    >>> look(1)["marker"], look(1)["linestyle"]
    ('s', '--')
    """
    turn, place = divmod(index, len(COLOURS))  # the eighth series has the first one's colour, but not its marker
    marker, line = MARKERS[(place + turn) % len(MARKERS)], LINES[(place + turn) % len(LINES)]
    edge = {"markeredgecolor": "black", "markeredgewidth": 0.6}  # so that light colours show on white
    return {"color": COLOURS[place], "marker": marker, "linestyle": line, **edge}


def _values(estimates: Iterable[Drawn | None]) -> tuple[np.ndarray, np.ndarray]:
    """Values (N,), and how far the interval reaches below and above (2, N); NaN for what was not measured."""
    found = [[e[key] if e else np.nan for key in ("value", "low", "high")] for e in estimates]
    values = np.array(found, dtype=float).reshape(-1, 3).T
    return values[0], np.abs(values[1:] - values[0])


def bars(axis: Axes, labels: Sequence[str], series: Mapping[str, Sequence[Drawn | None]]) -> None:
    """Groups of bars with their intervals, an estimate for each label; what was not measured, None, leaves a gap."""
    width = 0.86 / len(series)
    for index, (name, estimates) in enumerate(series.items()):
        values, reach = _values(estimates)
        places = np.arange(len(labels)) + (index - (len(series) - 1) / 2) * width
        turn, place = divmod(index, len(COLOURS))
        style = {"elinewidth": 0.9, "ecolor": "0.45" if place == 0 else "black"}
        axis.bar(places, values, width, yerr=reach, label=name, color=COLOURS[place], edgecolor="black",
                 linewidth=0.5, hatch=HATCHES[place] + "xxxx" * turn, error_kw=style)  # fmt: skip
        for where in places[values == 0]:  # measured, and nothing found: not a gap
            axis.annotate("0", (where, 0), (0, 1), textcoords="offset points", ha="center", fontsize=7)
    axis.set_xticks(np.arange(len(labels)), labels)
    axis.grid(visible=False, axis="x")


def points(axis: Axes, places: Sequence[float], estimates: Sequence[Drawn | None], index: int, **style: object) -> None:
    """One series of points with vertical intervals, in the look of its number; what was not measured is left out."""
    shown = [(place, found) for place, found in zip(places, estimates, strict=True) if found]
    values, reach = _values(found for _, found in shown)
    appearance = {"markersize": 4, "linewidth": 1, "elinewidth": 0.9, "capsize": 1.5, "ecolor": "0.25"}
    axis.errorbar([place for place, _ in shown], values, yerr=reach, **(look(index) | appearance | style))


def horizontal(axis: Axes, place: float, estimate: Drawn, index: int, label: str) -> None:
    """One point with its interval lying down, in the look of its number."""
    style = look(index) | {"markersize": 4.5, "capsize": 2, "elinewidth": 1, "ecolor": "0.25"}
    values, reach = _values([estimate])
    axis.errorbar(values, [place], xerr=reach, **style | {"linestyle": "none", "label": label})


def listed(axis: Axes, labels: Sequence[str], estimates: Sequence[Drawn | None], looks: Sequence[int]) -> None:
    """Labelled estimates under each other, each in the look of its number; what was not measured is left out."""
    for place, (estimate, index) in enumerate(zip(estimates, looks, strict=True)):
        if estimate:
            horizontal(axis, -place, estimate, index, labels[place])
    axis.set_yticks([-place for place in range(len(labels))], labels)


def curves(axis: Axes, logs: Sequence[Sequence[Mapping]], field: str, alpha: float, **style: Any) -> None:  # noqa: ANN401
    """A logged number over the steps: the mean of seeds, shaded between their extremes."""
    steps = [record["step"] for record in logs[0]]
    values = np.array([[record[field] for record in log] for log in logs])
    axis.plot(steps, values.mean(0), **style)
    axis.fill_between(steps, values.min(0), values.max(0), color=style["color"], alpha=alpha, linewidth=0)


def plain_log_ticks(axis: Axes) -> None:
    """A logarithmic vertical axis with numbers such as 0.5, 1, 2."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def finish(figure: Figure, legend_of: Axes | None = None, columns: int = 1, pad: float = 0.4) -> Figure:
    """Tighten a figure; with `legend_of`, one legend for all of it, over it."""
    figure.tight_layout(pad=pad)
    if legend_of is not None:
        handles, labels = legend_of.get_legend_handles_labels()
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        figure.legend(handles, labels, frameon=False, ncols=columns, **place)
    return figure


def legend_beside(axis: Axes) -> None:
    """A legend to the right of an axis."""
    axis.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


def size_on_screen(path: Path) -> tuple[int, int]:
    """Width and height, in a browser's pixels, at which a saved figure is shown: a little larger than on paper."""
    with Image.open(path) as image:
        return tuple(round(side * SCREEN * 1.15 / PIXELS_PER_INCH) for side in image.size)


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` and `<name>.svg`, without dates, so that the same figure gives the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        with atomic_path(folder / f"{name}{suffix}") as partial:
            figure.savefig(partial, format=suffix[1:], metadata=metadata)
