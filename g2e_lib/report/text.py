"""Tables as text: estimates with their intervals, names for display, Markdown, LaTeX and HTML."""

import re
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from g2e_lib.project.published import reference
from g2e_lib.project.store import write_text

pd.set_option("display.max_colwidth", None)  # tables are there to be read, so never cut a cell

META_TASKS = ("classification", "vqa", "retrieval", "grounding")
TITLES = {"classification": "Classif.", "vqa": "VQA", "retrieval": "Retrieval", "grounding": "Grounding"}
TITLES |= {"IND": "IND", "OOD": "OOD", "overall": "Overall"}
DETAILS = tuple(TITLES[task] for task in META_TASKS)  # columns that an excerpt can do without
REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced at this scale", "not run"
LONG = 24  # characters; a column with longer texts is kept wide

Drawn = Mapping[str, Any]  # a stored estimate: value, low, high, n

NAMES = yaml.safe_load((Path(__file__).parent / "names.yaml").read_text(encoding="utf-8"))
QUESTIONS: dict[str, str] = NAMES["questions"]  # of ablations, with their titles


def display(key: str) -> str:
    """The name of a method or of a setting of an ablation, as tables and figures show it; unknown ones as they are.

    >>> display("in_batch"), display("top_k=3"), display("fraction=0.1"), display("my own miner")
    ('in-batch, hierarchical prompt', 'K = 3', '10 % of pairs', 'my own miner')
    """
    question, is_setting, value = key.partition("=")
    if key in NAMES["exact"]:
        return NAMES["exact"][key]
    if is_setting and question in NAMES["settings"]:
        number = float(value) if re.fullmatch(r"[\d.]+", value) else np.nan
        return NAMES["settings"][question].format(value=value, percent=100 * number)
    start, is_prompt, prompt = key.partition(":")
    return f"{display(start)}: {prompt}" if is_prompt and start in NAMES["exact"] else key


def interval(estimate: Drawn, signed: bool = False, digits: int = 1) -> str:
    """An estimate as text.

    >>> interval({"value": 43.21, "low": 40.0, "high": 46.55, "n": 300})
    '43.2 [40.0, 46.5]'
    >>> interval({"value": 2.04, "low": -1.0, "high": 5.0, "n": 300}, signed=True)
    '+2.0 [-1.0, +5.0]'
    """
    form = f"{'+' if signed else ''}.{digits}f"
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


# --- rows of scores ------------------------------------------------------------------------------------------------


def row(
    label: str, estimates: Mapping[str, Any], columns: Mapping[str, str] = TITLES, signed: bool = False
) -> dict[str, str]:
    """Estimates by column, of key and title, with n; what was not measured is a dash; differences are `signed`."""
    cells = {title: interval(estimates[key], signed) if key in estimates else "–" for key, title in columns.items()}
    whole = next(estimates[key] for key in ("overall", "mean", *columns) if key in estimates)
    return {"": label, **cells, "n": str(whole["n"])}


def seeds(method: Mapping[str, Any]) -> dict[str, str]:
    """A cell with the number of seeds, and the standard deviation of the overall score over them."""
    values = method["overall_by_seed"]
    return {"seeds": "1" if len(values) == 1 else f"{len(values)}, sd {np.std(values, ddof=1):.1f}"}


def difference_rows(differences: Mapping[str, Any], columns: Mapping[str, str] = TITLES) -> list[dict[str, str]]:
    """A row for every method against every baseline, in points, paired on the same queries."""
    return [
        row(f"{display(method)} - {display(baseline)}", found, columns, signed=True)
        | (seeds(found) if "overall_by_seed" in found else {})
        for baseline, others in differences.items()
        for method, found in others.items()
    ]


def paper_rows(profile: str, name: str, query: str = "", columns: Mapping[str, str] | None = None) -> list[dict]:
    """Rows of published scores; none for `smoke`, whose numbers are never shown beside a paper's.

    Args:
        profile: the run's.
        name: of the published table.
        query: which rows.
        columns: of the published table, with titles; without, those of MMEB.
    """
    columns = columns or {group.lower(): title for group, title in TITLES.items()}
    published = reference(name).query(query) if query else reference(name)
    rows = []
    for _, paper in published.iterrows() if profile != "smoke" else ():
        scores = {title: paper.get(column) for column, title in columns.items()}
        cells = {title: f"{score:.1f}" if pd.notna(score) else "–" for title, score in scores.items()}
        rows.append({"": f"paper, {paper.model} {paper.params}: {paper.method}", **cells, "n": "–"})
    return rows


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
        The same table, with `attrs["best"]`, [row, column] pairs, and `attrs["ours"]`, the rows.
    """
    numbers = {(place, column): _number(table[column].iloc[place]) for place in rows for column in columns}
    best = []
    for place in rows if by_row else columns:
        rivals = {key: v for key, v in numbers.items() if key[0 if by_row else 1] == place and v is not None}
        if len(rivals) > 1:
            top = min(rivals.values()) if lowest else max(rivals.values())
            best += [list(key) for key, value in rivals.items() if value == top]
    table.attrs |= {"best": best, "ours": list(rows)}
    return table


def _number(cell: object) -> float | None:
    found = re.match(r"[+-]?\d+(\.\d+)?", str(cell))
    return float(found[0]) if found else None


def looks_numeric(cells: pd.Series) -> bool:
    """Whether every cell is a number, perhaps with its interval, or a dash."""
    shape = re.compile(r"[+-]?[\d.]+%?\*?( \[[^\]]*\]\*?)?( points)?|–|")
    return all(shape.fullmatch(cell) for cell in cells.astype(str))


# --- Markdown, LaTeX, HTML -----------------------------------------------------------------------------------------

TEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--"}
TEX |= {"→": r"$\rightarrow$", "<": r"\textless{}", ">": r"\textgreater{}"}
TEX |= {character: f"\\{character}" for character in "&%$#_{}"}


def _formatted(table: pd.DataFrame, escaped: Callable[[str], str], bold: str) -> pd.DataFrame:
    """All cells as escaped texts, the best ones set in bold; `bold` has {} where the text goes."""
    shown = table.astype(str).map(escaped)
    for place, column in table.attrs.get("best", ()):
        shown.iloc[place, shown.columns.get_loc(column)] = bold.format(shown[column].iloc[place])
    return shown.rename(columns=lambda name: escaped(str(name)))


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table, the best cells bold."""
    shown = _formatted(table, lambda text: text.replace("|", "\\|").replace("\n", " "), "**{}**")
    return shown.to_markdown(index=False, disable_numparse=True) + "\n"


def to_tex(table: pd.DataFrame) -> str:
    r"""A LaTeX tabular with booktabs' rules, the best cells bold; put it into a table environment."""
    shown = _formatted(table, lambda text: "".join(TEX.get(letter, letter) for letter in text), r"\textbf{{{}}}")
    shown.iloc[:, 0] = shown.iloc[:, 0].str.replace(r"^\[", "{}[", regex=True)  # else an option of the rule above
    layout = "".join("r" if looks_numeric(table[column]) else "l" for column in table)
    return shown.style.hide(axis="index").to_latex(column_format=layout, hrules=True)


def to_html(table: pd.DataFrame) -> str:
    """An HTML table that scrolls by itself, the best cells bold, verdicts of class yes, no or open."""
    cells = _formatted(table, escape, "<b>{}</b>")
    styles = []
    for name in table:
        is_long = table[name].astype(str).str.len().max() > LONG
        styles.append(' class="number"' if looks_numeric(table[name]) else ' class="long"' if is_long else "")
    head = "".join(f"<th{style}>{name}</th>" for name, style in zip(cells, styles, strict=True))
    lines = []
    for values in cells.to_numpy().tolist():
        shown = zip(table, styles, values, strict=True)
        shown = [(value, _verdict_style(value) if name == "verdict" else style) for name, style, value in shown]
        lines.append("<tr>" + "".join(f"<td{style}>{value}</td>" for value, style in shown) + "</tr>\n")
    body = f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(lines)}</tbody>\n</table>"
    return f'<div class="scroll" style="overflow-x: auto" tabindex="0">{body}</div>'


def _verdict_style(verdict: str) -> str:
    known = {REPRODUCED: "yes", NOT_RUN: "open"}
    style = known.get(verdict.partition(" (")[0], "no" if verdict.startswith("not ") else "open")
    return f' class="{style}"'


def save_table(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write `<name>.csv`, `<name>.md` and `<name>.tex`."""
    write_text(folder / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    write_text(folder / f"{name}.md", to_markdown(table))
    write_text(folder / f"{name}.tex", to_tex(table))


class TableView:
    """A table as a notebook shows it: an excerpt, and the whole one folded under it."""

    MOST_ROWS, MOST_COLUMNS = 8, 6

    def __init__(self, whole: pd.DataFrame, caption: str = "") -> None:
        self.whole, self.caption = whole, caption

    @property
    def excerpt(self) -> pd.DataFrame:
        """At most 8 rows, ours before the papers', and 6 columns, the summarizing ones before the meta-tasks'."""
        ours = self.whole.attrs.get("ours", ())
        places = sorted(sorted(range(len(self.whole)), key=lambda place: place not in ours)[: self.MOST_ROWS])
        names = list(self.whole)
        if len(names) > self.MOST_COLUMNS:
            names = [name for name in names if name not in DETAILS][: self.MOST_COLUMNS]
        shown = self.whole.iloc[places][names].reset_index(drop=True)
        best = [(places.index(i), name) for i, name in self.whole.attrs.get("best", ()) if i in places]
        shown.attrs = {"best": [list(cell) for cell in best if cell[1] in names]}
        return shown

    def _repr_html_(self) -> str:
        rows, columns = self.whole.shape
        caption = f"<p>{escape(self.caption)}</p>" if self.caption else ""
        excerpt = self.excerpt
        if excerpt.shape == (rows, columns):
            return caption + to_html(self.whole)
        left_out = f"the whole table: {rows} rows and {columns} columns, of which {len(excerpt)} and {excerpt.shape[1]}"
        folded = f"<details><summary>{left_out} are shown above</summary>\n{to_html(self.whole)}\n</details>"
        return f"{caption}{to_html(excerpt)}\n{folded}"

    def __repr__(self) -> str:
        return self.excerpt.to_string(index=False)
