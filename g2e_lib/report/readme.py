"""The parts of the README that hold numbers or lists, generated from the published results: see `refresh`.

Each lies between two marks, `<!-- name:start -->` and `<!-- name:end -->`; everything else is written by hand.
"""

import re
from collections.abc import Callable

import pandas as pd

from g2e_lib.project import config
from g2e_lib.project.notebooks import notebook_paths, title
from g2e_lib.project.store import read_json, write_text
from g2e_lib.report import Report, claims
from g2e_lib.report.pages import write_site
from g2e_lib.report.text import NOT_RUN, REPRODUCED, TITLES, display, mark_best, row, to_markdown

NAME = "README.md"
PROFILE = "mini"  # whose published results the README shows
RUN = f"reference/{PROFILE}"
GROUPS = {group: TITLES[group] for group in ("IND", "OOD", "overall")}
TRAINED = ("training", "ablations", "unime", "unime_ablations")


def _link(text: str, path: str) -> str:
    """A link, if its target exists."""
    return f"[{text}]({path})" if (config.ROOT / path).exists() else text


def results_block(report: Report) -> str:
    """The main findings with their verdicts, and how many of all claims have which."""
    table = report.claims_now(chosen=lambda claim: claim.is_headline)
    short = {REPRODUCED: "**yes**", NOT_RUN: "not run"}
    table["reproduced"] = [short.get(verdict.partition(" (")[0], "no") for verdict in table["verdict"]]
    for column in ("paper", "ours"):
        table[column] = table[column].str.removesuffix(" points")
    shown = table.rename(columns={"paper": "the paper", "ours": "here, 95 % interval"})
    links = f"{_link('each with source and rule', f'results/{report.name}/claims.md')}"
    counted = f"Of {len(claims.CLAIMS)} claims and their parts: {claims.tally(report.claims_now())} ({links})."
    return f"{to_markdown(shown[['claim', 'the paper', 'here, 95 % interval', 'reproduced']])}\nIn points. {counted}"


def scores_block(report: Report) -> str:
    """hit@1 of the main methods, IND, OOD and overall, without and with training."""
    methods = {}
    if report.has("zero_shot"):
        prompts = report.metrics("zero_shot")["prompts"]
        wanted = {"none": "no prompt, no training", "hierarchical": "hierarchical prompt, no training"}
        methods |= {label: prompts[name]["groups"] for name, label in wanted.items() if name in prompts}
    for metrics in filter(report.has, ("training", "unime")):
        trained = report.metrics(metrics)["methods"]
        methods |= {display(key): m["groups"] for key, m in trained.items() if not key.startswith("zero_shot")}
    if not methods:
        return "Nothing has been scored yet."
    rows = [row(name, groups, GROUPS) for name, groups in methods.items()]
    table = mark_best(pd.DataFrame(rows), range(len(rows)), list(GROUPS.values()))
    return to_markdown(table.rename(columns={"": "hit@1 in percent"}))


def notebooks_block(report: Report) -> str:
    """The notebooks in order: question, executed page, and the time of the last run."""
    path = report.folder / "run.json"
    record = read_json(path, made_by="run_all.sh") if path.is_file() else {"notebooks": {}}
    rows, total = [], 0.0
    for notebook in notebook_paths():
        seconds = record["notebooks"].get(notebook.stem, {}).get("seconds")
        total += seconds or 0
        folder = f"results/{report.name}"
        page = _link("page", f"{folder}/{notebook.stem}.html")
        page += f", {_link('ipynb', f'{folder}/notebooks/{notebook.name}')}"
        name = _link(notebook.stem, f"notebooks/{notebook.name}")
        shown = f"{seconds:.0f}" if seconds is not None else "–"
        rows.append({"notebook": name, "question": title(notebook), "executed": page, "seconds": shown})
    last = f"The last run took {total / 60:.0f} minutes in all, with what was cached"
    return f"{_narrow(pd.DataFrame(rows))}\n{last}; {_training_cost(report)}"


def _narrow(table: pd.DataFrame) -> str:
    """A Markdown table whose cells are not padded, so that its lines stay short."""
    lines = to_markdown(table).splitlines()
    return "\n".join(re.sub(r"-{3,}", "---", re.sub(r" {2,}", " ", line)) for line in lines) + "\n"


def _training_cost(report: Report) -> str:
    """How long training alone takes where nothing is cached, from the stored times of every run."""
    seconds, cores = [], set()
    for metrics in filter(report.has, TRAINED):
        found = report.metrics(metrics)
        repeated = {*found.get("base_names", ())} - {found.get("base")}  # the base under other names
        trained = [method for key, method in found["methods"].items() if key not in repeated]
        seconds += [taken for method in trained for taken in method["seconds"]]
        cores.add(found["provenance"]["cpu_count"])
    if not seconds:
        return "nothing has been trained yet."
    minutes = sum(seconds) / 60
    return f"its {len(seconds)} training runs alone take {minutes:.0f} minutes on {max(cores)} cores without cache."


def profiles_block(report: Report) -> str:
    """The profiles with what they are for, as their files say."""
    rows = []
    for name in config.profile_names():
        first = (config.PROFILES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        command = f"`./run_all.sh --profile {name}`" if name != report.profile else "`./run_all.sh`"
        rows.append({"profile": name, "command": command, "what it is": first.lstrip("# ")})
    return _narrow(pd.DataFrame(rows))


BLOCKS: dict[str, Callable[[Report], str]] = {
    "results": results_block,
    "scores": scores_block,
    "notebooks": notebooks_block,
    "profiles": profiles_block,
}


def render(text: str, report: Report) -> str:
    """The README's text with every block made anew.

    Raises:
        ValueError: a block's marks are missing.
    """
    for name, make in BLOCKS.items():
        start, end = (f"<!-- {name}:{side} -->" for side in ("start", "end"))
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md must have the marks {start} and {end} once each: put them back")
        (before, _, rest), block = text.partition(start), make(report).strip()
        text = f"{before}{start}\n{block}\n{end}{rest.partition(end)[2]}"
    return text


def refresh(report: Report) -> bool:
    """Bring what depends on published results up to date: their pages, whose links know where they lie, and the README.

    Returns:
        Whether the README changed, which shows one profile only.
    """
    write_site(report)
    path = config.ROOT / NAME
    before = path.read_text(encoding="utf-8") if report.profile == PROFILE and path.is_file() else ""
    after = render(before, report) if before else ""
    if after != before:
        write_text(path, after)
    return after != before
