"""Tables, figures, claims and pages, drawn from stored results only: no model, no data, no torch."""

import shutil
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from g2e_lib.project.results import Results
from g2e_lib.report import claims as claims_module
from g2e_lib.report import fact_tables, figures, gallery, score_tables  # noqa: F401 (they register what they draw)
from g2e_lib.report.claims import CLAIMS, Claim, claims_table, claims_text
from g2e_lib.report.look import save_figure, size_on_screen
from g2e_lib.report.registry import ENTRIES, Entry, find
from g2e_lib.report.text import TableView, save_table


class Report(Results):
    """The tables, figures and claims of one run, drawn from its metrics."""

    def make(self, entry: Entry) -> Any:  # noqa: ANN401 (a table or a figure)
        """Draw an entry without saving it; None if there is nothing to show."""
        metrics = [self.metrics(name) for name in entry.needs]
        metrics += [self.metrics(name) if self.has(name) else None for name in entry.may_use]
        return entry.drawn(metrics, profile=self.profile, results=self.folder)

    def draw(self, kind: str, name: str) -> pd.DataFrame | Figure | None:
        """Make, save and return a "table" or a "figure"."""
        made = self.make(find(kind, name))
        if isinstance(made, pd.DataFrame):
            save_table(made, self.folder / "tables", name)
        elif made is not None:
            save_figure(made, self.figures, name)
        return made

    def table(self, name: str) -> TableView | None:
        """Make and save a table; a notebook shows an excerpt, with the whole one folded under it."""
        made = self.draw("table", name)
        return None if made is None else TableView(made, find("table", name).caption)

    def figure(self, *names: str) -> None:
        """Make, save and show figures."""
        from IPython import display  # here, since reports are drawn outside notebooks too

        for name in names:
            if (made := self.draw("figure", name)) is not None:
                plt.close(made)
                path = self.figures / f"{name}.png"
                width = size_on_screen(path)[0]
                display.display(display.Image(filename=str(path), width=width, alt=find("figure", name).caption))

    def claims_now(self, part: str = "", chosen: Callable[[Claim], bool] = lambda claim: True) -> pd.DataFrame:
        """The claims with their verdicts, see claims.claims_table."""
        found = {name: self.metrics(name) for name in claims_module.METRICS if self.has(name)}
        return claims_table(found, self.profile, part, chosen)

    def save_claims(self, part: str = "") -> pd.DataFrame:
        """The claims of one part (such as "mining") or, with "", all; saved as a table."""
        table = self.claims_now(part)
        if not table.empty:
            save_table(table, self.folder / "tables", f"{part}_claims" if part else "claims")
        return table

    def claims(self, part: str = "") -> TableView:
        """The same as a notebook shows it."""
        return TableView(self.save_claims(part), "The papers' claims, each with a verdict by a stated rule.")

    def redraw(self, is_fresh: bool = False) -> pd.DataFrame:
        """Draw and save everything whose metrics exist; with `is_fresh` all tables and figures are removed first.

        Returns:
            One row a table or figure: its name, its metrics, and whether it was drawn or what is missing.
        """
        for folder in (self.folder / "tables", self.figures) if is_fresh else ():
            shutil.rmtree(folder, ignore_errors=True)
        rows, nothing = [], "left out: nothing to show"
        for (kind, name), entry in ENTRIES.items():
            if missing := [need for need in entry.needs if not self.has(need)]:
                state = f"left out: there is no metrics/{missing[0]}.json"
            else:
                state = nothing if self.draw(kind, name) is None else "drawn"
                plt.close("all")
            rows.append({"kind": kind, "name": name, "metrics": ", ".join(entry.needs), "state": state})
        for part in dict.fromkeys(("", *(claim.part for claim in CLAIMS))):
            state = nothing if self.save_claims(part).empty else "drawn"
            name = f"{part}_claims" if part else "claims"
            rows.append({"kind": "table", "name": name, "metrics": "those of the claims", "state": state})
        return pd.DataFrame(rows)


def conclude(run: str) -> str:
    """What a run ends with: the main claims with their verdicts, for a terminal; "" where nothing was measured."""
    report = Report(run)
    if not any(map(report.has, claims_module.METRICS)):
        return ""
    return claims_text(report.claims_now(chosen=lambda claim: not claim.is_detail))
