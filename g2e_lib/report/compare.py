"""What differs between two runs: cells of their tables, verdicts, parameters, and scores on the same queries."""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2e_lib.project import config
from g2e_lib.project.bootstrap import percent_estimate
from g2e_lib.project.results import REFERENCE, Results
from g2e_lib.project.store import write_text
from g2e_lib.report.text import display, interval, to_html, to_markdown

MEASURED_COLUMNS = re.compile(r"\bseconds\b|\ba second\b|\bmemory\b")  # they differ between any two runs
MEASURED_TABLES = {"speed"}
VERDICT = "verdict"
NUMBER = r"([+-]?\d+(?:\.\d+)?)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
SHOWN_DIFFERENCES = 20  # on the terminal; `compare` names all

Row = dict[str, str]

# --- cells of tables -----------------------------------------------------------------------------------------------


@dataclass
class CellDifferences:
    """How the tables of one run differ from those of another.

    Attributes:
        equal: cells with the same text.
        measured: cells that hold seconds, speeds or memory, set aside.
        within: cells whose value lies within the other's interval, each named.
        outside: further cells that differ, or are missing.
        verdicts: verdicts that differ.
    """

    equal: int = 0
    measured: int = 0
    within: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)

    def counts(self) -> str:
        """All numbers in one line."""
        return (
            f"{self.equal} cells equal, {len(self.within)} within the interval, {len(self.outside)} outside, "
            f"{len(self.verdicts)} verdicts differ; {self.measured} cells are measured (seconds, speed, memory)"
        )

    def named(self) -> dict[str, list[str]]:
        """What differs, by kind."""
        kinds = {"verdicts that differ": self.verdicts, "outside the interval": self.outside}
        return {**kinds, "within the interval": self.within}


def compare_tables(ours: Results, theirs: Results) -> CellDifferences:
    """Compare the tables of two runs cell by cell; lists of claims by part repeat `claims` and are left out."""
    found = CellDifferences()
    names = {path.stem: None for run in (theirs, ours) for path in sorted((run.folder / "tables").glob("*.csv"))}
    for name in names:
        if name.endswith("_claims"):
            continue
        here, there = (_read_table(run.folder / "tables" / f"{name}.csv") for run in (ours, theirs))
        if here is None or there is None:
            found.outside.append(f"{name}: only results/{(ours if there is None else theirs).name} has this table")
        else:
            _compare_rows(name, here, there, found)
    return found


def _read_table(path: Path) -> list[Row] | None:
    if not path.is_file():
        return None
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _keyed(tables: Sequence[list[Row]]) -> list[dict[str, Row]]:
    """The rows of tables by their first cells, as few as tell them apart in each; by number where none do."""
    columns = min((list(rows[0]) for rows in tables if rows), key=len, default=[])
    for count in range(1, len(columns) + 1):
        keyed = [{", ".join(filter(None, (r.get(c) for c in columns[:count]))): r for r in rows} for rows in tables]
        if all(len(by_key) == len(rows) for by_key, rows in zip(keyed, tables, strict=True)):
            return keyed
    return [{f"row {number}": row for number, row in enumerate(rows, 1)} for rows in tables]


def _compare_rows(table: str, ours: list[Row], theirs: list[Row], found: CellDifferences) -> None:
    here, there = _keyed([ours, theirs])
    for key in {**there, **here}:
        if key not in here or key not in there:
            found.outside.append(f"{table}: {key}: only {'the other' if key in there else 'this run'} has this row")
            continue
        for column in {**there[key], **here[key]}:
            place = f"{table}: {key}: {column or 'name'}"
            _compare_cell(table, column, place, here[key].get(column, ""), there[key].get(column, ""), found)


def _compare_cell(table: str, column: str, place: str, ours: str, theirs: str, found: CellDifferences) -> None:
    if table in MEASURED_TABLES or MEASURED_COLUMNS.search(column):
        found.measured += 1
    elif ours == theirs:
        found.equal += 1
    elif column == VERDICT:
        found.verdicts.append(f"{place}: {ours}, there {theirs}")
    else:
        (found.within if _is_within(ours, theirs) else found.outside).append(f"{place}: {ours}, there {theirs}")


def _is_within(ours: str, theirs: str) -> bool:
    """Whether a cell's value lies within the interval of another cell."""
    value, found = re.match(NUMBER, ours), INTERVAL.match(theirs)
    return bool(value and found) and float(found[2]) <= float(value[1]) <= float(found[3])


def against_reference(name: str, reference: str) -> str:
    """How the tables of a run differ from those of another one, briefly."""
    found = compare_tables(Results(name), Results(reference))
    lines = [f"results/{name} against results/{reference}: {found.counts()}"]
    for kind, places in found.named().items():
        lines += [f"  {kind}:"] if places else []
        lines += [f"    {place}" for place in places[:SHOWN_DIFFERENCES]]
        if len(places) > SHOWN_DIFFERENCES:
            lines.append(f"    and {len(places) - SHOWN_DIFFERENCES} more: ./run_all.sh compare {name} {reference}")
    return "\n".join(lines)


def conclude(name: str) -> None:
    """Print how a run that has just ended differs from its profile's reference, or where to see how a variant does."""
    results = Results(name)
    reference = Results(f"{REFERENCE}/{results.profile}")
    if name != results.profile:
        base = results.record.get("base") or reference.name
        print(f"\nWhat differs from its base: ./run_all.sh compare {name} {base}", flush=True)  # noqa: T201
        return
    try:
        reference.require()
    except ValueError as error:
        print(f"\nYour run is compared with no reference: {error}", flush=True)  # noqa: T201
        return
    print(f"\nYour run against the reference: {against_reference(name, reference.name)}", flush=True)  # noqa: T201


# --- parameters and scores -----------------------------------------------------------------------------------------

SCORES = {"zero_shot": "prompts", "training": "arms", "ablations": "arms", "unime": "arms", "unime_ablations": "arms"}
GROUPS = ("IND", "OOD", "overall")


def parameters_table(ours: Results, theirs: Results) -> pd.DataFrame:
    """The settings that differ."""
    rows = []
    for stem in {**theirs.record["settings"], **ours.record["settings"]}:
        here, there = ours.settings(stem), theirs.settings(stem)
        for name in {**there, **here}:
            if (a := here.get(name, "–")) != (b := there.get(name, "–")):
                rows.append({"notebook": stem, "parameter": name, ours.name: str(a), theirs.name: str(b)})
    return pd.DataFrame(rows, columns=["notebook", "parameter", ours.name, theirs.name])


def comparable_metrics(ours: Results, theirs: Results) -> list[str]:
    """The metrics files of scores that both runs have and made with the same data.

    Raises:
        ValueError: the runs were made with different data.
    """
    common = [name for name in ("setup", *SCORES, "mining", "sugarcrepe") if ours.has(name) and theirs.has(name)]
    data = {name: [run.metrics(name)["provenance"]["data"] for run in (ours, theirs)] for name in common}
    differing = [name for name, (here, there) in data.items() if here != there]
    if "setup" in differing or (differing and differing == common):
        here, there = data[differing[0]]
        raise ValueError(
            f"results/{ours.name} and results/{theirs.name} were made with different data ({here} and {there}), so "
            f"their scores say nothing about each other: run both on the same"
        )
    return [name for name in common if name not in differing]


def _answers(method: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """For each dataset (N,) float64: the share of seeds that answer a query right; None if it was not stored."""
    if not (right := method.get("right")):
        return None
    by_dataset = {name: [strings] if isinstance(strings, str) else strings for name, strings in right.items()}
    return {n: np.mean([[c == "1" for c in string] for string in many], axis=0) for n, many in by_dataset.items()}


def _members(facts: Mapping[str, Mapping[str, Any]], group: str) -> list[str]:
    """The datasets of IND, OOD or overall."""
    return [name for name, about in facts.items() if group in ("overall", about["distribution"])]


def _paired(ours: Mapping[str, Any], theirs: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any] | None:
    """A paired difference; None unless the same queries were answered."""
    here, there = _answers(ours), _answers(theirs)
    if here is None or there is None or any(len(here.get(n, ())) != len(there.get(n, "?")) for n in names):
        return None
    return vars(percent_estimate({name: here[name] - there[name] for name in names}))


def _unpaired(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """A difference of two stored estimates as if their queries were independent: half-widths add as squares."""
    value = ours["value"] - theirs["value"]
    below = np.hypot(ours["value"] - ours["low"], theirs["high"] - theirs["value"])
    above = np.hypot(ours["high"] - ours["value"], theirs["value"] - theirs["low"])
    return {"value": value, "low": value - below, "high": value + above, "n": min(ours["n"], theirs["n"])}


def score_rows(ours: Results, theirs: Results, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Scores of the methods that both runs have, with their differences as stored estimates."""
    for metrics in (name for name in SCORES if name in names):
        here, there = ours.metrics(metrics), theirs.metrics(metrics)
        for key, method in here[SCORES[metrics]].items():
            if not (other := there[SCORES[metrics]].get(key)):
                continue
            for group in (group for group in GROUPS if group in method["groups"] and group in other["groups"]):
                members = _members(here["datasets"], group)
                is_same = members == _members(there["datasets"], group)
                paired = _paired(method, other, members) if is_same else None
                yield _score_row(metrics, key, group, method["groups"][group], other["groups"][group], paired)
    for metrics, key, group, a, b in _further(ours, theirs, names):
        yield _score_row(metrics, key, group, a, b, None)


def _further(ours: Results, theirs: Results, names: Sequence[str]) -> Iterator[tuple[str, str, str, Any, Any]]:
    """Estimates whose single answers are not stored: composition, and false negatives of miners."""
    if "sugarcrepe" in names:
        here, there = ours.metrics("sugarcrepe")["sets"], theirs.metrics("sugarcrepe")["sets"]
        for kind, key in ((k, m) for k, by_side in here.items() for s in by_side for m in by_side[s]):
            for side in (side for side in here[kind] if key in there.get(kind, {}).get(side, {})):
                a, b = (sets[kind][side][key]["groups"]["mean"] for sets in (here, there))
                yield f"{kind}, {side}", key, "mean", a, b
    if "mining" in names:
        here, there = ours.metrics("mining")["miners"], theirs.metrics("mining")["miners"]
        for key in (key for key in here if key in there):
            for group in (group for group in here[key]["groups"] if group in there[key]["groups"]):
                a, b = (miners[key]["groups"][group]["anchor"] for miners in (here, there))
                yield "false negatives (%)", key, group, a, b


def _score_row(metrics: str, key: str, group: str, a: Any, b: Any, paired: Any) -> dict[str, Any]:  # noqa: ANN401
    difference = paired or _unpaired(a, b)
    return {"of": metrics, "method": display(key), "group": group, "ours": a, "theirs": b,
            "difference": difference, "how": "paired" if paired else "unpaired"}  # fmt: skip


def scores_table(rows: Sequence[Mapping[str, Any]], ours: str, theirs: str) -> pd.DataFrame:
    """Those rows as texts."""
    columns = {
        "of": [r["of"] for r in rows],
        "method": [r["method"] for r in rows],
        "group": [r["group"] for r in rows],
    }
    columns |= {ours: [interval(r["ours"]) for r in rows], theirs: [interval(r["theirs"]) for r in rows]}
    columns["difference"] = [interval(r["difference"], signed=True) for r in rows]
    columns |= {"how": [r["how"] for r in rows], "n": [r["difference"]["n"] for r in rows]}
    return pd.DataFrame(columns)


def draw(rows: Sequence[Mapping[str, Any]], folder: Path, ours: str, theirs: str) -> bool:
    """Draw the overall differences with their intervals; tells whether there are any."""
    import matplotlib.pyplot as plt

    shown = [row for row in rows if row["group"] in ("overall", "mean", "all")]
    if not shown:
        return False
    figure, axis = plt.subplots(figsize=(7, 1 + 0.28 * len(shown)), layout="constrained")
    for place, row in enumerate(reversed(shown)):
        at, color = row["difference"], "C0" if row["how"] == "paired" else "C7"
        axis.plot([at["low"], at["high"]], [place, place], color=color)
        axis.plot([at["value"]], [place], "o", color=color)
    axis.axvline(0, color="0.5", linewidth=0.8)
    axis.set_yticks(range(len(shown)), [f"{row['of']}: {row['method']}" for row in reversed(shown)])
    axis.set_xlabel(f"{ours} minus {theirs}, points (grey: unpaired)")
    for suffix in ("png", "svg"):
        figure.savefig(folder / f"differences.{suffix}", dpi=150)
    plt.close(figure)
    return True


# --- the whole comparison ------------------------------------------------------------------------------------------


def compare_runs(first: str, second: str) -> Path:
    """Print what differs between two runs, and store it as Markdown, HTML and a figure.

    Args:
        first: name of a run.
        second: of another one; differences are the first minus the second.

    Returns:
        The folder.

    Raises:
        ValueError: a run does not exist, is of another version, or the two have different data.
    """
    ours, theirs = Results(first), Results(second)
    if first == second:
        raise ValueError(f"{first!r} would be compared with itself: name two runs")
    for run in (ours, theirs):
        run.require()
    rows = list(score_rows(ours, theirs, comparable_metrics(ours, theirs)))
    folder = config.RESULTS / f"compare-{first.replace('/', '-')}-{second.replace('/', '-')}"
    folder.mkdir(parents=True, exist_ok=True)
    has_figure = draw(rows, folder, first, second)
    sections = list(_sections(ours, theirs, rows))
    title = f"{first} against {second}"
    text = _markdown(title, sections, has_figure)
    write_text(folder / "comparison.md", text)
    write_text(folder / "comparison.html", _html(title, sections, folder / "differences.svg" if has_figure else None))
    print(text)  # noqa: T201
    print(f"{folder.relative_to(config.ROOT)}/ has this as Markdown and HTML, with a figure")  # noqa: T201
    return folder


def _sections(
    ours: Results, theirs: Results, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, pd.DataFrame | list[str]]]:
    """Headings, each with a sentence and a table or list."""
    parameters = parameters_table(ours, theirs)
    yield "Parameters", "" if len(parameters) else "All parameters are equal.", parameters
    how = {row["how"] for row in rows}
    told = "In percent with 95 % intervals, and differences in points. "
    told += "Paired: both answered the same queries, and the bootstrap draws queries for both at once. " * (
        "paired" in how
    )
    told += "Unpaired: queries differ, or single answers are not stored; intervals are wider. " * ("unpaired" in how)
    yield (
        "Scores",
        told.strip() if rows else "No method was scored in both.",
        scores_table(rows, ours.name, theirs.name),
    )
    cells = compare_tables(ours, theirs)
    yield "Tables", f"{cells.counts()}.", pd.DataFrame()
    for kind, places in cells.named().items():
        if places:
            yield kind.capitalize(), "", places


def _markdown(title: str, sections: Sequence[tuple], has_figure: bool) -> str:
    parts = [f"# {title}"]
    for heading, told, content in sections:
        parts += [f"## {heading}", *filter(None, [told])]
        if isinstance(content, list):
            parts.append("\n".join(f"- {place}" for place in content))
        elif len(content):
            parts.append(to_markdown(content).rstrip())
        if heading == "Scores" and has_figure:
            parts.append("![differences](differences.svg)")
    return "\n\n".join(parts) + "\n"


STYLE = """body { font: 16px/1.5 sans-serif; max-width: 60rem; margin: 1rem auto; padding: 0 1rem }
.scroll { overflow-x: auto } table { border-collapse: collapse; font-size: 0.85rem } svg { max-width: 100% }
th, td { padding: 0.2rem 0.6rem; border-bottom: 1px solid #ddd; text-align: left } svg { height: auto }"""


def _html(title: str, sections: Sequence[tuple], figure: Path | None) -> str:
    """One page that needs no network."""
    parts = [f"<h1>{escape(title)}</h1>"]
    for heading, told, content in sections:
        parts += [f"<h2>{escape(heading)}</h2>", f"<p>{escape(told)}</p>" if told else ""]
        if isinstance(content, list):
            parts.append("<ul>" + "".join(f"<li>{escape(place)}</li>" for place in content) + "</ul>")
        elif len(content):
            parts.append(to_html(content))
        if heading == "Scores" and figure:
            parts.append(re.sub(r"^.*?(?=<svg)", "", figure.read_text(encoding="utf-8"), flags=re.DOTALL))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    body = "\n".join(filter(None, parts))
    return (
        f'<!doctype html>\n<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n'
    )
