"""Everything that can be drawn from stored results, by name: which metrics it needs, and what draws it.

Notebooks save their own tables and figures through this list, and 07_figures draws all of them again, so both are the
same bytes.
"""

import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from g2e_lib.project.config import figures_folder, results_folder
from g2e_lib.project.store import read_json
from g2e_lib.report import (
    claims,
    crepe_report,
    mining_report,
    setup_report,
    training_report,
    unime_report,
    zero_shot_report,
)
from g2e_lib.report.style import save_figure, save_table


@dataclass(frozen=True)
class Entry:
    """A table or a figure.

    Attributes:
        make: gets the metrics in order; also `profile` (its name) and `results` (the folder), if it has such
            parameters. Returns None, or an empty table, if there is nothing to show. Its docstring's first line is
            the caption.
        needs: names of metrics files, without suffix.
        may_use: further ones, given as None where they are missing.
    """

    make: Callable[..., Any]
    needs: tuple[str, ...]
    may_use: tuple[str, ...] = ()

    @property
    def caption(self) -> str:
        """One sentence on what is shown."""
        made_of = self.make.keywords.values() if isinstance(self.make, partial) else ()
        line = (inspect.getdoc(self.make.func if made_of else self.make) or "").partition("\n")[0]
        return f"{line.rstrip('.')} ({', '.join(made_of)})." if made_of else line


_Z, _T, _M, _S = zero_shot_report, training_report, mining_report, setup_report
_U, _C = unime_report, crepe_report
_CREPE = {
    "sugarcrepe": {"name": "sugarcrepe", "kind": "image"},
    "sugarcrepe_pp_image": {"name": "sugarcrepe_pp", "kind": "image"},
    "sugarcrepe_pp_text": {"name": "sugarcrepe_pp", "kind": "text"},
}
_GAP = {"needs": ("modality_gap",), "may_use": ("modality_gap_trained",)}

TABLES: dict[str, Entry] = {
    "table_1_zero_shot": Entry(_Z.zero_shot_table, ("zero_shot",)),
    "prompt_ablation": Entry(_Z.prompt_table, ("zero_shot",)),
    "prompt_differences": Entry(_Z.difference_table, ("zero_shot",)),
    "zero_shot_datasets": Entry(_Z.dataset_table, ("zero_shot",)),
    "modality_gap": Entry(_Z.modality_gap_table, **_GAP),
    "next_words": Entry(_Z.next_words_table, ("next_words",)),
    "attention": Entry(_Z.attention_table, ("attention",)),
    "miners": Entry(_M.miners_table, ("mining",)),
    "false_negatives": Entry(_M.false_negatives_table, ("mining",)),
    "clusters": Entry(_M.clusters_table, ("mining",)),
    "mining_steps": Entry(_M.steps_table, ("mining_example",)),
    "similarities": Entry(_M.histograms_table, ("similarities",)),
    "table_2_training": Entry(_T.training_table, ("training",)),
    "training_datasets": Entry(_T.training_datasets_table, ("training",)),
    "training_cost": Entry(_T.cost_table, ("training",)),
    "ablations": Entry(_T.ablation_table, ("ablations",)),
    "ablation_verdicts": Entry(_T.ablation_verdicts, ("ablations",)),
    "unime_teacher": Entry(_U.teacher_table, ("unime",)),
    "unime_mmeb": Entry(_U.unime_table, ("unime",)),
    "unime_retrieval": Entry(_U.retrieval_table, ("unime",)),
    "unime_filter": Entry(_U.filter_table, ("unime",)),
    "unime_negatives": Entry(_U.negatives_table, ("unime",)),
    "unime_next_words": Entry(_U.stages_words_table, ("unime",)),
    "unime_ablations": Entry(_T.ablation_table, ("unime_ablations",)),
    "unime_ablation_verdicts": Entry(_T.ablation_verdicts, ("unime_ablations",)),
    **{name: Entry(partial(_C.crepe_table, **which), ("sugarcrepe",)) for name, which in _CREPE.items()},
    "sugarcrepe_differences": Entry(_C.crepe_differences_table, ("sugarcrepe",)),
    "mmeb_mini": Entry(_S.benchmark_table, ("setup",)),
    "base_model": Entry(_S.model_table, ("setup",)),
    "base_model_competence": Entry(_S.competence_table, ("setup",)),
    "base_models": Entry(_S.base_models_table, ("setup",)),
    "replies": Entry(_S.replies_table, ("setup",)),
    "speed": Entry(_S.speed_table, ("benchmarks",)),
}

FIGURES: dict[str, Entry] = {
    "zero_shot_prompts": Entry(_Z.zero_shot_figure, ("zero_shot",)),
    "zero_shot_datasets": Entry(_Z.dataset_figure, ("zero_shot",)),
    "modality_gap": Entry(_Z.modality_gap_figure, **_GAP),
    "attention": Entry(_Z.attention_figure, ("attention",)),
    "false_negatives": Entry(_M.false_negatives_figure, ("mining",)),
    "miner_tradeoff": Entry(_M.tradeoff_figure, ("mining",)),
    "similarities": Entry(_M.histograms_figure, ("similarities",)),
    "mining_steps": Entry(_M.steps_figure, ("mining_example",)),
    "training": Entry(_T.training_figure, ("training",)),
    "training_datasets": Entry(_T.training_datasets_figure, ("training",)),
    "training_curves": Entry(_T.curves_figure, ("training",)),
    "data_efficiency": Entry(_T.data_efficiency_figure, ("ablations",)),
    "ablations": Entry(_T.ablation_panel_figure, ("ablations",)),
    **{
        f"ablation_{question}": Entry(partial(_T.ablation_figure, question=question), ("ablations",))
        for question in _T.QUESTIONS
    },
    "unime_negatives": Entry(_U.negatives_figure, ("unime",)),
    "unime_next_words": Entry(_U.stages_words_figure, ("unime",)),
    "unime_ablations": Entry(_T.ablation_panel_figure, ("unime_ablations",)),
    **{
        f"ablation_{question}": Entry(partial(_T.ablation_figure, question=question), ("unime_ablations",))
        for question in _T.UNIME_QUESTIONS
    },
    **{name: Entry(partial(_C.crepe_figure, **which), ("sugarcrepe",)) for name, which in _CREPE.items()},
    "sugarcrepe_gallery": Entry(_C.crepe_gallery_figure, ("sugarcrepe",)),
    "glyphworld_objects": Entry(_S.objects_figure, ("gallery",)),
    "glyphworld_scenes": Entry(_S.scenes_figure, ("gallery",)),
    "glyphworld_looks": Entry(_S.looks_figure, ("gallery",)),
    "mmeb_mini_rows": Entry(_S.rows_figure, ("gallery",)),
    "base_model_learning_curve": Entry(_S.learning_curve_figure, ("setup",)),
    "speed": Entry(_S.speed_figure, ("benchmarks",)),
}


class Catalogue:
    """The tables and figures of one profile, drawn from its metrics.

    Args:
        profile: a profile's name.
    """

    def __init__(self, profile: str) -> None:
        self.profile, self.results, self.figures = profile, results_folder(profile), figures_folder(profile)

    def metrics(self, name: str) -> Any:  # noqa: ANN401 (whatever a notebook stored)
        """The content of `metrics/<name>.json`.

        Raises:
            ValueError: it does not exist.
        """
        return read_json(self.results / "metrics" / f"{name}.json", made_by="the notebook that writes it")

    def has(self, name: str) -> bool:
        """Whether `metrics/<name>.json` exists."""
        return (self.results / "metrics" / f"{name}.json").is_file()

    def make(self, entry: Entry) -> Any:  # noqa: ANN401 (a table or a figure)
        """Draw an entry without saving it; None if there is nothing to show."""
        metrics = [self.metrics(name) for name in entry.needs]
        metrics += [self.metrics(name) if self.has(name) else None for name in entry.may_use]
        known = {"profile": self.profile, "results": self.results}
        wanted = {name: known[name] for name in inspect.signature(entry.make).parameters if name in known}
        made = entry.make(*metrics, **wanted)
        return None if isinstance(made, pd.DataFrame) and made.empty else made

    def table(self, name: str) -> pd.DataFrame | None:
        """Make, save and return a table."""
        table = self.make(_find(TABLES, name))
        if table is not None:
            save_table(table, self.results / "tables", name)
        return table

    def figure(self, name: str) -> Figure | None:
        """Make, save and return a figure."""
        figure = self.make(_find(FIGURES, name))
        if figure is not None:
            save_figure(figure, self.figures, name)
        return figure

    def draw(self, *names: str) -> None:
        """Make and save figures; a notebook shows them, since they stay open."""
        for name in names:
            self.figure(name)

    def draw_all_of(self, metrics: str) -> None:
        """Make and save every figure that needs these metrics first of all."""
        self.draw(*(name for name, entry in FIGURES.items() if entry.needs[0] == metrics))

    def claims_now(self, part: str = "", is_short: bool = False) -> pd.DataFrame:
        """The claims with their verdicts, see claims.claims_table."""
        found = {name: self.metrics(name) for name in claims.METRICS if self.has(name)}
        return claims.claims_table(found, self.profile, part, is_short)

    def claims(self, part: str = "") -> pd.DataFrame:
        """The claims with their verdicts, of one part (such as "mining") or, with "", all; saved as a table."""
        table = self.claims_now(part)
        if not table.empty:
            save_table(table, self.results / "tables", f"{part}_claims" if part else "claims")
        return table

    def redraw(self, is_fresh: bool = False) -> pd.DataFrame:
        """Draw and save everything whose metrics exist.

        Args:
            is_fresh: remove all tables and figures first.

        Returns:
            One row a table or figure: its name, its metrics, and whether it was drawn or what is missing.
        """
        for folder in (self.results / "tables", self.figures) if is_fresh else ():
            shutil.rmtree(folder, ignore_errors=True)
        rows = []
        for kind, name, entry in self.entries():
            missing = [need for need in entry.needs if not self.has(need)]
            state = f"left out: there is no metrics/{missing[0]}.json" if missing else "drawn"
            if not missing:
                made = self.table(name) if kind == "table" else self.figure(name)
                state = state if made is not None else "left out: nothing to show"
                plt.close("all")
            rows.append({"kind": kind, "name": name, "metrics": ", ".join(entry.needs), "state": state})
        for part in dict.fromkeys(("", *(one.part for one in claims.CLAIMS))):
            state = "left out: nothing to show" if self.claims(part).empty else "drawn"
            name = f"{part}_claims" if part else "claims"
            rows.append({"kind": "table", "name": name, "metrics": "those of the claims", "state": state})
        return pd.DataFrame(rows)

    def entries(self) -> Iterator[tuple[str, str, Entry]]:
        """All entries: "table" or "figure", name, entry."""
        for kind, entries in (("table", TABLES), ("figure", FIGURES)):
            yield from ((kind, name, entry) for name, entry in entries.items())


def _find(entries: Mapping[str, Entry], name: str) -> Entry:
    if name not in entries:
        raise ValueError(f"there is nothing called {name!r} to draw: choose one of {', '.join(entries)}")
    return entries[name]
