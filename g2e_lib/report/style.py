"""What all tables and figures share: one style, saving, intervals, the papers' rows, and the rule of a verdict.

From stored results only: no model, no torch.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from g2e_lib.project.store import atomic_path, write_text

pd.set_option("display.max_colwidth", None)  # tables are there to be read, so never cut a cell


META_TASKS = ("classification", "vqa", "retrieval", "grounding")


GROUPS = (*META_TASKS, "IND", "OOD", "overall")


TITLES = {"classification": "Classif.", "vqa": "VQA", "retrieval": "Retrieval", "grounding": "Grounding"}


TITLES |= {"IND": "IND", "OOD": "OOD", "overall": "Overall"}


Estimate = Mapping[str, Any]  # value, low, high, n


ONE_COLUMN, TWO_COLUMNS = 3.5, 7.2  # inches, of a two-column paper


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
            "savefig.dpi": 200,
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


def look(index: int) -> dict[str, Any]:
    """Colour, marker and line style of the series with this number; the same in every figure.

    >>> look(1)["marker"], look(1)["linestyle"]
    ('s', '--')
    """
    turn, place = divmod(index, len(COLOURS))  # the eighth series has the first one's colour, but not its marker
    marker, line = MARKERS[(place + turn) % len(MARKERS)], LINES[(place + turn) % len(LINES)]
    edge = {"markeredgecolor": "black", "markeredgewidth": 0.6}  # so that light colours show on white
    return {"color": COLOURS[place], "marker": marker, "linestyle": line, **edge}


def bars(axis: Axes, labels: Sequence[str], series: Mapping[str, Sequence[Estimate | None]]) -> None:
    """Groups of bars with their intervals; what was not measured leaves a gap.

    Args:
        axis: to draw on.
        labels: one a group.
        series: by name an estimate, or None, for each group.
    """
    width = 0.86 / len(series)
    for i, (name, estimates) in enumerate(series.items()):
        values = np.array([[one[k] if one else np.nan for k in ("value", "low", "high")] for one in estimates]).T
        places = np.arange(len(labels)) + (i - (len(series) - 1) / 2) * width
        turn, place = divmod(i, len(COLOURS))
        hatch, colour = HATCHES[place] + "xxxx" * turn, COLOURS[place]
        style = {"elinewidth": 0.9, "ecolor": "0.45" if place == 0 else "black"}
        axis.bar(places, values[0], width, yerr=np.abs(values[1:] - values[0]), label=name, color=colour,
                 edgecolor="black", linewidth=0.5, hatch=hatch, error_kw=style)  # fmt: skip
        for where, value in zip(places, values[0], strict=True):
            if value == 0:  # measured, and nothing found: not a gap
                axis.annotate("0", (where, 0), (0, 1), textcoords="offset points", ha="center", fontsize=7)
    axis.set_xticks(np.arange(len(labels)), labels)
    axis.grid(visible=False, axis="x")


def points(
    axis: Axes, places: Sequence[float], estimates: Sequence[Estimate | None], index: int, **style: object
) -> None:
    """One series of points with vertical intervals, in the look of its number; what was not measured is left out."""
    shown = [(place, one) for place, one in zip(places, estimates, strict=True) if one]
    values = np.array([[one[k] for k in ("value", "low", "high")] for _, one in shown]).reshape(-1, 3).T
    appearance = {
        **look(index),
        "markersize": 4,
        "linewidth": 1,
        "elinewidth": 0.9,
        "capsize": 1.5,
        "ecolor": "0.25",
    } | style
    axis.errorbar([place for place, _ in shown], values[0], yerr=np.abs(values[1:] - values[0]), **appearance)


def horizontal(axis: Axes, place: float, one: Estimate, index: int, label: str) -> None:
    """One point with its interval lying down, in the look of its number."""
    style = look(index) | {"markersize": 4.5, "capsize": 2, "elinewidth": 1, "ecolor": "0.25"}
    style |= {"linestyle": "none", "label": label}
    axis.errorbar(one["value"], place, xerr=[[one["value"] - one["low"]], [one["high"] - one["value"]]], **style)


def legend_above(figure: Figure, axis: Axes, columns: int) -> None:
    """One legend for the whole figure, over it."""
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, ncols=columns, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def save_figure(figure: Figure, folder: Path, name: str) -> None:
    """Write `<name>.png` and `<name>.svg`, without dates, so that the same figure gives the same bytes."""
    for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None, "Creator": None})):
        with atomic_path(folder / f"{name}{suffix}") as partial:
            figure.savefig(partial, format=suffix[1:], metadata=metadata)


def interval(estimate: Estimate, signed: bool = False) -> str:
    """An estimate as text.

    >>> interval({"value": 43.21, "low": 40.0, "high": 46.55, "n": 300})
    '43.2 [40.0, 46.5]'
    >>> interval({"value": 2.04, "low": -1.0, "high": 5.0, "n": 300}, signed=True)
    '+2.0 [-1.0, +5.0]'
    """
    form = "+.1f" if signed else ".1f"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def mark_best(
    table: pd.DataFrame, rows: Sequence[int], columns: Sequence[str], by_row: bool = False, lowest: bool = False
) -> pd.DataFrame:
    """Note which cells are the best, to be set in bold; ties all are.

    Args:
        table: cells are texts that begin with a number, or hold none.
        rows: positions of the rows that compete: ours, not the paper's, and no differences.
        columns: names of the columns that hold scores.
        by_row: compare the columns of each row, instead of the rows of each column.
        lowest: the lowest is best.

    Returns:
        The same table, with `attrs["best"]`: [row, column] pairs.
    """
    numbers = {(row, column): _number(table[column].iloc[row]) for row in rows for column in columns}
    best = []
    for place in rows if by_row else columns:
        rivals = {key: v for key, v in numbers.items() if key[0 if by_row else 1] == place and v is not None}
        if len(rivals) > 1:
            top = min(rivals.values()) if lowest else max(rivals.values())
            best += [list(key) for key, value in rivals.items() if value == top]
    table.attrs["best"] = best
    return table


def _number(cell: object) -> float | None:
    found = re.match(r"[+-]?\d+(\.\d+)?", str(cell))
    return float(found[0]) if found else None


def looks_numeric(cells: pd.Series) -> bool:
    """Whether every cell is a number, perhaps with its interval, or a dash."""
    shape = re.compile(r"[+-]?[\d.]+%?\*?( \[[^\]]*\]\*?)?( points)?|–|")
    return all(shape.fullmatch(cell) for cell in cells.astype(str))


TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}


TEX |= {"→": r"$\rightarrow$"}


TEX |= {character: f"\\{character}" for character in "&%$#_{}"} | {"<": r"\textless{}", ">": r"\textgreater{}"}


def escape_tex(text: str) -> str:
    r"""Text as LaTeX prints it.

    >>> escape_tex("50 % of a_b")
    '50 \\% of a\\_b'
    """
    return "".join(TEX.get(character, character) for character in text)


def _formatted(table: pd.DataFrame, escape: Callable[[str], str], bold: str) -> pd.DataFrame:
    """All cells as escaped texts, the best ones set in bold; `bold` has {} where the text goes."""
    shown = table.astype(str).map(escape)
    for row, column in table.attrs.get("best", ()):
        shown.iloc[row, shown.columns.get_loc(column)] = bold.format(shown[column].iloc[row])
    return shown.rename(columns=lambda name: escape(str(name)))


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table, the best cells bold."""
    shown = _formatted(table, lambda text: text.replace("|", "\\|").replace("\n", " "), "**{}**")
    return shown.to_markdown(index=False, disable_numparse=True) + "\n"


def to_tex(table: pd.DataFrame) -> str:
    r"""A LaTeX tabular with booktabs' rules, the best cells bold; put it into a table environment."""
    shown = _formatted(table, escape_tex, r"\textbf{{{}}}")
    layout = "".join("r" if looks_numeric(table[column]) else "l" for column in table)
    lines = [" & ".join(cells) + r" \\" for cells in (list(shown.columns), *shown.to_numpy().tolist())]
    lines = ["{}" + line if line.startswith("[") else line for line in lines]  # else an option of the rule above
    body = ["\\toprule", lines[0], "\\midrule", *lines[1:], "\\bottomrule"]
    return "\n".join([f"\\begin{{tabular}}{{{layout}}}", *body, "\\end{tabular}"]) + "\n"


def save_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write `<name>.csv`, `<name>.md` and `<name>.tex`."""
    write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / f"{name}.md", to_markdown(table))
    write_text(folder / f"{name}.tex", to_tex(table))


def paper_row(label: str, row: pd.Series) -> dict[str, str]:
    """A row of published scores by group; what was not published is a dash."""
    scores = {group: row.get(group.lower()) for group in GROUPS}
    cells = {TITLES[group]: f"{score:.1f}" if pd.notna(score) else "–" for group, score in scores.items()}
    return {"": label, **cells, "n": "–"}


def our_row(label: str, groups: dict[str, dict], signed: bool = False) -> dict[str, str]:
    """A row of our estimates by group."""
    cells = {TITLES[g]: interval(groups[g], signed) if g in groups else "–" for g in GROUPS}
    return {"": label, **cells, "n": str(groups["overall"]["n"])}


def seed_spread(values: Sequence[float]) -> str:
    """Number of seeds, and the standard deviation of the overall score over them."""
    return "1" if len(values) == 1 else f"{len(values)}, sd {np.std(values, ddof=1):.1f}"


REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced at this scale", "not run"


def flipped(estimate: dict[str, Any]) -> dict[str, Any]:
    """The same difference seen from the other side.

    >>> flipped({"value": 1.0, "low": -1.0, "high": 3.0, "n": 9})
    {'value': -1.0, 'low': -3.0, 'high': 1.0, 'n': 9}
    """
    return {"value": -estimate["value"], "low": -estimate["high"], "high": -estimate["low"], "n": estimate["n"]}
