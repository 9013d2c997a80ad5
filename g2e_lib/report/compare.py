"""What differs between two runs: cells of their tables, verdicts, parameters, and scores on the same queries."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from g2e_lib.project import config
from g2e_lib.project.bootstrap import percent_estimate
from g2e_lib.project.results import REFERENCE, Results
from g2e_lib.project.store import write_text
from g2e_lib.report.look import finish, listed, panels, save_figure
from g2e_lib.report.pages import TEMPLATES
from g2e_lib.report.text import display, interval, to_html, to_markdown

MEASURED_COLUMNS = re.compile(r"\bseconds\b|\ba second\b|\bmemory\b")  # they differ between any two runs
MEASURED_TABLES = {"speed"}
NUMBER = r"([+-]?\d+(?:\.\d+)?)"
INTERVAL = re.compile(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]")
SHOWN_DIFFERENCES = 20  # on the terminal; `compare` names all

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
        """What differs, by kind; kinds without any are left out."""
        kinds = {"verdicts that differ": self.verdicts, "outside the interval": self.outside}
        return {kind: places for kind, places in {**kinds, "within the interval": self.within}.items() if places}

    def add(self, table: str, row: str, column: str, ours: str, theirs: str) -> None:
        """Count and name one cell."""
        if table in MEASURED_TABLES or MEASURED_COLUMNS.search(column):
            self.measured += 1
        elif ours == theirs:
            self.equal += 1
        else:
            kind = self.verdicts if column == "verdict" else self.within if _is_within(ours, theirs) else self.outside
            kind.append(f"{table}: {row}: {column or 'name'}: {ours}, there {theirs}")


def _is_within(ours: str, theirs: str) -> bool:
    """Whether a cell's value lies within the interval of another cell."""
    value, found = re.match(NUMBER, ours), INTERVAL.match(theirs)
    return bool(value and found) and float(found[2]) <= float(value[1]) <= float(found[3])


def compare_tables(ours: Results, theirs: Results) -> CellDifferences:
    """Compare the tables of two runs cell by cell; lists of claims by part repeat `claims` and are left out."""
    found = CellDifferences()
    here, there = (
        {path.stem: path for path in sorted((run.folder / "tables").glob("*.csv")) if not path.stem.endswith("_claims")}
        for run in (ours, theirs)
    )
    for name in {**there, **here}:
        if name in here and name in there:
            _compare_rows(name, *_keyed([_read_table(here[name]), _read_table(there[name])]), found)
        else:
            found.outside.append(f"{name}: only results/{(ours if name in here else theirs).name} has this table")
    return found


def _read_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False).rename(
        columns=lambda name: re.sub("^Unnamed.*", "", name)
    )


def _keyed(tables: Sequence[pd.DataFrame]) -> list[dict[str, dict[str, str]]]:
    """The rows of tables by their first cells, as few as tell them apart in each; by number where none do."""
    rows = [table.to_dict("records") for table in tables]
    for count in range(1, min(table.shape[1] for table in tables) + 1):
        keys = [[", ".join(filter(None, list(row.values())[:count])) for row in many] for many in rows]
        if all(len({*names}) == len(names) for names in keys):
            break
    else:
        keys = [[f"row {number}" for number in range(1, len(many) + 1)] for many in rows]
    return [dict(zip(names, many, strict=True)) for names, many in zip(keys, rows, strict=True)]


def _compare_rows(table: str, here: Mapping[str, Any], there: Mapping[str, Any], found: CellDifferences) -> None:
    for key in {**there, **here}:
        if key in here and key in there:
            for column in {**there[key], **here[key]}:
                found.add(table, key, column, here[key].get(column, ""), there[key].get(column, ""))
        else:
            found.outside.append(f"{table}: {key}: only {'the other' if key in there else 'this run'} has this row")


def against_reference(name: str, reference: str) -> str:
    """How the tables of a run differ from those of another one, briefly."""
    found = compare_tables(Results(name), Results(reference))
    lines = [f"results/{name} against results/{reference}: {found.counts()}"]
    for kind, places in found.named().items():
        lines += [f"  {kind}:", *(f"    {place}" for place in places[:SHOWN_DIFFERENCES])]
        if len(places) > SHOWN_DIFFERENCES:
            lines.append(f"    and {len(places) - SHOWN_DIFFERENCES} more: ./run_all.sh compare {name} {reference}")
    return "\n".join(lines)


def conclude(name: str) -> None:
    """Print how a run that has just ended differs from its profile's reference, or where to see how a variant does."""
    results = Results(name)
    reference = Results(f"{REFERENCE}/{results.profile}")
    if name != results.profile:
        base = results.record.get("base") or reference.name
        told = f"What differs from its base: ./run_all.sh compare {name} {base}"
    else:
        try:
            reference.require()
            told = f"Your run against the reference: {against_reference(name, reference.name)}"
        except ValueError as error:
            told = f"Your run is compared with no reference: {error}"
    print(f"\n{told}", flush=True)  # noqa: T201


# --- parameters and scores -----------------------------------------------------------------------------------------

SCORES = ("zero_shot", "training", "ablations", "unime", "unime_ablations", "sugarcrepe", "mining")  # metrics files
GROUPS = ("IND", "OOD", "overall")


def parameters_table(ours: Results, theirs: Results) -> pd.DataFrame:
    """The settings that differ."""
    rows = []
    for stem in {**theirs.record["settings"], **ours.record["settings"]}:
        here, there = ours.settings(stem), theirs.settings(stem)
        for name in {**there, **here}:
            if (a := here.get(name, "–")) != (b := there.get(name, "–")):
                rows.append({"notebook": stem, "parameter": name, ours.name: str(a), theirs.name: str(b)})
    return pd.DataFrame(rows)


def comparable_metrics(ours: Results, theirs: Results) -> list[str]:
    """The metrics files of scores that both runs have and made with the same data.

    Raises:
        ValueError: the runs were made with different data.
    """
    common = [name for name in ("setup", *SCORES) if ours.has(name) and theirs.has(name)]
    data = {name: [run.metrics(name)["provenance"]["data"] for run in (ours, theirs)] for name in common}
    differing = [name for name, (here, there) in data.items() if here != there]
    if "setup" in differing or (differing and differing == common):
        here, there = data[differing[0]]
        raise ValueError(
            f"results/{ours.name} and results/{theirs.name} were made with different data ({here} and {there}), so "
            f"their scores say nothing about each other: run both on the same"
        )
    return [name for name in SCORES if name in common and name not in differing]


def _scores(run: Results, name: str) -> dict[tuple[str, str, str], tuple[Any, dict[str, np.ndarray]]]:
    """The estimates of a metrics file by what they are of, method and group, with the answers behind each.

    Answers are, for each dataset, (N,) float64, the share of seeds that answer a query right; {} where not stored.
    """
    metrics, found = run.metrics(name), {}
    if name == "mining":
        for key, miner in metrics["miners"].items():
            found |= {("false negatives (%)", key, group): (f["anchor"], {}) for group, f in miner["groups"].items()}
    elif name == "sugarcrepe":
        for of, sides in metrics["sets"].items():
            for side, methods in sides.items():
                found |= {(f"{of}, {side}", key, "mean"): (m["groups"]["mean"], {}) for key, m in methods.items()}
    else:
        for key, method in metrics["prompts" if name == "zero_shot" else "methods"].items():
            answers = {dataset: _answers(right) for dataset, right in (method.get("right") or {}).items()}
            for group in (group for group in GROUPS if group in method["groups"]):
                members = [n for n, about in metrics["datasets"].items() if group in ("overall", about["distribution"])]
                is_stored = all(member in answers for member in members)
                behind = {member: answers[member] for member in members} if is_stored else {}
                found[name, key, group] = method["groups"][group], behind
    return found


def _answers(right: str | Sequence[str]) -> np.ndarray:
    """What was stored for a dataset, one string of 0 and 1 a seed, as the mean over seeds."""
    strings = [right] if isinstance(right, str) else right
    return np.mean([[digit == "1" for digit in string] for string in strings], axis=0)


def _unpaired(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """A difference of two stored estimates as if their queries were independent: half-widths add as squares."""
    value = ours["value"] - theirs["value"]
    below = np.hypot(ours["value"] - ours["low"], theirs["high"] - theirs["value"])
    above = np.hypot(ours["high"] - ours["value"], theirs["value"] - theirs["low"])
    return {"value": value, "low": value - below, "high": value + above, "n": min(ours["n"], theirs["n"])}


def score_rows(ours: Results, theirs: Results, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Scores of the methods that both runs have, with their differences as stored estimates, paired where possible."""
    for name in names:
        here, there = _scores(ours, name), _scores(theirs, name)
        for of, key, group in (place for place in here if place in there):
            (a, right), (b, other) = here[of, key, group], there[of, key, group]
            is_paired = bool(right) and {n: len(v) for n, v in right.items()} == {n: len(v) for n, v in other.items()}
            if is_paired:
                difference = vars(percent_estimate({dataset: right[dataset] - other[dataset] for dataset in right}))
            else:
                difference = _unpaired(a, b)
            shown = {"of": of, "method": display(key), "group": group, "ours": a, "theirs": b}
            yield {**shown, "difference": difference, "how": "paired" if is_paired else "unpaired"}


def scores_table(rows: Sequence[Mapping[str, Any]], ours: str, theirs: str) -> pd.DataFrame:
    """Those rows as texts."""
    table = pd.DataFrame(rows, columns=["of", "method", "group", "ours", "theirs", "difference", "how"])
    table["n"] = [difference["n"] for difference in table["difference"]]
    table["difference"] = [interval(difference, signed=True) for difference in table["difference"]]
    for column in ("ours", "theirs"):
        table[column] = table[column].map(interval)
    return table.rename(columns={"ours": ours, "theirs": theirs})


def draw(rows: Sequence[Mapping[str, Any]], folder: Path, ours: str, theirs: str) -> bool:
    """Draw the overall differences with their intervals; tells whether there are any."""
    shown = [row for row in rows if row["group"] in ("overall", "mean", "all")]
    if shown:
        figure, ((axis,),) = panels(1, 1, 1 + 0.28 * len(shown))
        looks = [1 if row["how"] == "paired" else 5 for row in shown]
        listed(axis, [f"{row['of']}: {row['method']}" for row in shown], [row["difference"] for row in shown], looks)
        axis.axvline(0, color="0.5", linewidth=0.8)
        axis.set_xlabel(f"{ours} minus {theirs}, points (light: unpaired)")
        save_figure(finish(figure), folder, "differences")
    return bool(shown)


HOW = {
    "": "In percent with 95 % intervals, and differences in points.",
    "paired": "Paired: both answered the same queries, and the bootstrap draws queries for both at once.",
    "unpaired": "Unpaired: queries differ, or single answers are not stored; intervals are wider.",
}

# --- the whole comparison ------------------------------------------------------------------------------------------


def compare_runs(first: str, second: str) -> Path:
    """Print what differs between two runs, the first minus the second, and store it in the folder that is returned.

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
    has_figure = draw(rows, folder, first, second)
    sections = list(_sections(ours, theirs, rows))
    title = f"{first} against {second}"
    text = _markdown(title, sections, has_figure)
    write_text(folder / "comparison.md", text)
    drawn = (folder / "differences.svg").read_text(encoding="utf-8") if has_figure else ""
    figure = re.sub(r"^.*?(?=<svg)", "", drawn, flags=re.DOTALL)
    shown = [(*head, content if isinstance(content, list) else to_html(content)) for *head, content in sections]
    page = TEMPLATES.get_template("comparison.html").render(title=title, sections=shown, figure=figure)
    write_text(folder / "comparison.html", page)
    print(f"{text}\n{folder.relative_to(config.ROOT)}/ has this as Markdown and HTML, with a figure")  # noqa: T201
    return folder


def _sections(
    ours: Results, theirs: Results, rows: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[str, str, pd.DataFrame | list[str]]]:
    """Headings, each with a sentence and a table or a list, which may be empty."""
    parameters = parameters_table(ours, theirs)
    yield "Parameters", "All parameters are equal." if parameters.empty else "", _or_empty_list(parameters)
    told = [HOW[""], *(told for how, told in HOW.items() if any(row["how"] == how for row in rows))]
    scores = _or_empty_list(scores_table(rows, ours.name, theirs.name))
    yield "Scores", " ".join(told) if rows else "No method was scored in both.", scores
    cells = compare_tables(ours, theirs)
    yield "Tables", f"{cells.counts()}.", []
    for kind, places in cells.named().items():
        yield kind.capitalize(), "", places


def _or_empty_list(table: pd.DataFrame) -> pd.DataFrame | list[str]:
    return [] if table.empty else table


def _markdown(title: str, sections: Sequence[tuple], has_figure: bool) -> str:
    parts = [f"# {title}"]
    for heading, told, content in sections:
        is_list = isinstance(content, list)
        body = "\n".join(f"- {place}" for place in content) if is_list else to_markdown(content).rstrip()
        figure = "![differences](differences.svg)" if heading == "Scores" and has_figure else ""
        parts += filter(None, (f"## {heading}", told, body, figure))
    return "\n\n".join(parts) + "\n"
