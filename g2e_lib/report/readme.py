"""The parts of the README that hold numbers or lists, generated: see `refresh`.

Each lies between two marks, `<!-- name:start -->` and `<!-- name:end -->`; everything else is written by hand.
"""

import re
import sys
from collections.abc import Callable

import nbformat
import pandas as pd
import yaml

from g2e_lib.project import config
from g2e_lib.project.store import write_text
from g2e_lib.report import claims
from g2e_lib.report.catalogue import Catalogue
from g2e_lib.report.style import NOT_RUN, REPRODUCED, TITLES, mark_best, our_row, to_markdown

NAME = "README.md"
PROFILE = "mini"  # whose results the README shows
GROUPS = ("IND", "OOD", "overall")


def _link(text: str, path: str) -> str:
    """A link, if its target exists."""
    return f"[{text}]({path})" if (config.ROOT / path).exists() else text


def results_block(catalogue: Catalogue) -> str:
    """Claims with their verdicts, and the scores they rest on."""
    table = catalogue.claims_now(is_short=True)
    counted = claims.tally(catalogue.claims_now())
    short = {REPRODUCED: "**yes**", NOT_RUN: "not run"}
    table["here"] = [short.get(verdict.partition(" (")[0], "no") for verdict in table["verdict"]]
    shown = table.rename(columns={"paper": "the paper", "ours": "here, with 95 % interval", "here": "reproduced"})
    columns = ["claim", "the paper", "here, with 95 % interval", "n", "reproduced"]
    pages = f"results/{catalogue.profile}"
    links = f"{_link('every claim with source and rule', f'{pages}/claims.md')}, "
    links += f"{_link('everything on one page', f'{pages}/report.html')} (open it in a browser)"
    text = f"Of all claims and their parts: {counted} ({links}). The main ones:\n\n{to_markdown(shown[columns])}"
    if not (scores := scores_table(catalogue)).empty:
        text += f"\nhit@1 in percent on MMEB-mini, mean over datasets:\n\n{to_markdown(scores)}"
    return text


def scores_table(catalogue: Catalogue) -> pd.DataFrame:
    """hit@1 of the main methods, IND, OOD and overall, without and with training."""
    arms = {}
    if catalogue.has("zero_shot"):
        prompts = catalogue.metrics("zero_shot")["prompts"]
        wanted = {"none": "no prompt, no training", "hierarchical": "hierarchical prompt, no training"}
        arms |= {label: prompts[name]["groups"] for name, label in wanted.items() if name in prompts}
    for metrics in ("training", "unime"):
        if catalogue.has(metrics):
            trained = catalogue.metrics(metrics)["arms"]
            arms |= {name: arm["groups"] for name, arm in trained.items() if not name.startswith("zero-shot")}
    rows = [our_row(name, groups) for name, groups in arms.items()]
    table = pd.DataFrame(rows, columns=["", *(TITLES[group] for group in GROUPS), "n"])
    return mark_best(table, range(len(table)), [TITLES[group] for group in GROUPS])


def notebooks_block(catalogue: Catalogue) -> str:
    """The notebooks in order: question, source, executed copy, and the time of the last run."""
    path = catalogue.results / "provenance.json"
    record = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {"notebooks": {}}
    rows, total = [], 0.0
    for notebook in sorted(config.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")):
        title = nbformat.read(notebook, as_version=4).cells[0].source.splitlines()[0].lstrip("# ")
        seconds = record["notebooks"].get(notebook.stem, {}).get("seconds")
        total += seconds or 0
        executed = _link("executed", f"results/{catalogue.profile}/notebooks/{notebook.name}")
        name = _link(notebook.stem, f"notebooks/{notebook.name}")
        shown = f"{seconds:.0f} s" if seconds is not None else "–"
        rows.append({"notebook": name, "with results": executed, "question": title, "last run": shown})
    text = to_markdown(pd.DataFrame(rows))
    return (
        f"{text}\nThe last run took {total / 60:.0f} minutes in all, with what was cached; {_training_cost(catalogue)}"
    )


def _training_cost(catalogue: Catalogue) -> str:
    """How long training alone takes where nothing is cached, from the stored times of every run."""
    seconds, cores = [], set()
    for metrics in filter(catalogue.has, ("training", "ablations", "unime", "unime_ablations")):
        found = catalogue.metrics(metrics)
        repeated = {*found.get("base_names", ())} - {found.get("base")}  # the base arm under other names
        seconds += [one for name, arm in found["arms"].items() if name not in repeated for one in arm["seconds"]]
        cores.add(found["provenance"]["cpu_count"])
    if not seconds:
        return "nothing has been trained yet.\n"
    minutes = sum(seconds) / 60
    return f"its {len(seconds)} training runs alone take {minutes:.0f} minutes on {max(cores)} cores without cache.\n"


def profiles_block(catalogue: Catalogue) -> str:
    """The profiles with what they are for, as their files say."""
    rows = []
    for name in config.profile_names():
        first = (config.PROFILES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
        command = f"`./run_all.sh --profile {name}`" if name != catalogue.profile else "`./run_all.sh`"
        rows.append({"profile": name, "command": command, "what it is": first.lstrip("# ")})
    return to_markdown(pd.DataFrame(rows))


BLOCKS: dict[str, Callable[[Catalogue], str]] = {
    "results": results_block,
    "notebooks": notebooks_block,
    "profiles": profiles_block,
}


def render(text: str, catalogue: Catalogue) -> str:
    """The README with every block made anew.

    Args:
        text: the README as it is.
        catalogue: of the results to show.

    Raises:
        ValueError: a block's marks are missing.
    """
    for name, make in BLOCKS.items():
        start, end = (f"<!-- {name}:{side} -->" for side in ("start", "end"))
        if text.count(start) != 1 or text.count(end) != 1:
            raise ValueError(f"README.md must have the marks {start} and {end} once each: put them back")
        block = make(catalogue).strip()
        text = re.sub(f"{start}.*{end}", lambda _, b=block, s=start, e=end: f"{s}\n{b}\n{e}", text, flags=re.DOTALL)
    return text


def refresh() -> bool:
    """Bring the README up to date with the stored results; tells whether there is one."""
    path = config.ROOT / NAME
    if path.is_file():
        write_text(path, render(path.read_text(encoding="utf-8"), Catalogue(PROFILE)))
    return path.is_file()


if __name__ == "__main__":
    refresh()
    sys.exit(0)
