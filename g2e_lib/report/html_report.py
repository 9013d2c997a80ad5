"""The pages of a profile's results: `claims.md`, and `report.html` with everything in one file.

The report needs no network and no script: pictures are inside, tables scroll by themselves on a small screen.
"""

import base64
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from g2e_lib.project.config import PACKAGE
from g2e_lib.project.store import write_text
from g2e_lib.report import claims
from g2e_lib.report.catalogue import FIGURES, TABLES, Catalogue, Entry
from g2e_lib.report.style import NOT_RUN, REPRODUCED, looks_numeric

TEMPLATES = PACKAGE / "report" / "templates"
PIXELS_PER_INCH, SCREEN = 200, 96  # of saved figures, and of a browser's inch
MANY, LONG = 12, 24  # a table of more rows is folded; a column with texts of more characters is kept wide

# Title and metrics of each notebook's section, in the order of the page.
SECTIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    "01_zero_shot": ("Prompts without training", ("zero_shot", "modality_gap", "attention", "next_words")),
    "02_mining": ("Mining negatives", ("mining", "mining_example", "similarities")),
    "03_training": ("Training", ("training",)),
    "04_ablations": ("Ablations", ("ablations",)),
    "05_unime": ("UniME", ("unime", "unime_ablations")),
    "06_sugarcrepe": ("Composition", ("sugarcrepe",)),
    "00_setup": ("The world, the base model, and speed", ("gallery", "setup", "benchmarks")),
}


CLAIM_COLUMNS = ["claim", "verdict", "paper", "ours", "n", "source"]  # what a narrow screen should show first


def write_pages(catalogue: Catalogue) -> list[Path]:
    """Write `claims.md` and `report.html` from what is stored and drawn; returns their paths."""
    table = catalogue.claims()
    pages = {"claims.md": claims.claims_markdown(table, catalogue.profile), "report.html": report_html(catalogue)}
    for name, text in pages.items():
        write_text(catalogue.results / name, text)
    return [catalogue.results / name for name in pages]


def report_html(catalogue: Catalogue) -> str:
    """The report as one HTML text; figures are read from where they were saved."""
    table = catalogue.claims()
    environment = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    return environment.get_template("report.html").render(
        profile=catalogue.profile,
        rules=claims.RULES,
        comparability=claims.comparability(catalogue.profile),
        tally=[one.split(" ", 1) for one in claims.tally(table).split(", ")],
        claims=_shown(catalogue.claims_now(is_short=True)[CLAIM_COLUMNS]),
        all_claims=_shown(table[[*CLAIM_COLUMNS, *(name for name in table if name not in CLAIM_COLUMNS)]]),
        sections=[one for one in (_section(catalogue, stem) for stem in SECTIONS) if one["tables"] or one["figures"]],
        provenance=_shown(provenance_table(catalogue)),
    )


def provenance_table(catalogue: Catalogue) -> pd.DataFrame:
    """One row a metrics file: what it was made with."""
    rows = []
    for path in sorted((catalogue.results / "metrics").glob("*.json")):
        facts = catalogue.metrics(path.stem).get("provenance", {})
        shown = {key: str(facts.get(key, "–")) for key in ("model", "data", "seed", "device", "dtype", "n", "seconds")}
        libraries = ", ".join(f"{name} {version}" for name, version in facts.get("libraries", {}).items())
        rows.append({"metrics": path.stem, "commit": str(facts.get("commit", "–"))[:12], **shown, "with": libraries})
    return pd.DataFrame(rows)


def _section(catalogue: Catalogue, stem: str) -> dict[str, Any]:
    title, metrics = SECTIONS[stem]
    tables, figures = [], []
    for name, entry in _entries(TABLES, metrics, catalogue):
        table = catalogue.make(entry)
        if table is not None:
            tables.append({**_shown(table), "caption": entry.caption, "name": name})
    for name, entry in _entries(FIGURES, metrics, catalogue):
        if (catalogue.figures / f"{name}.png").is_file() and not name.startswith("ablation_"):  # the panel has them all
            figures.append(_embedded(catalogue, name, entry.caption))
    notebook = stem if (catalogue.results / "notebooks" / f"{stem}.ipynb").is_file() else ""
    return {"id": stem, "title": title, "notebook": notebook, "tables": tables, "figures": figures}


def _entries(entries: Mapping[str, Entry], metrics: tuple[str, ...], catalogue: Catalogue) -> list[tuple[str, Entry]]:
    return [(n, e) for n, e in entries.items() if e.needs[0] in metrics and all(map(catalogue.has, e.needs))]


def _shown(table: pd.DataFrame) -> dict[str, Any]:
    """A table as the template wants it: columns, and rows of cells with text, style and whether they are the best."""
    best = {tuple(one) for one in table.attrs.get("best", ())}
    styles = {REPRODUCED: "yes", NOT_RUN: "open"}
    longest = {name: table[name].astype(str).str.len().max() for name in table}
    columns = [{"name": str(n), "is_number": looks_numeric(table[n]), "is_long": longest[n] > LONG} for n in table]
    rows = []
    for number, row in enumerate(table.astype(str).to_numpy().tolist()):
        cells = []
        for column, text in zip(columns, row, strict=True):
            style = "number" if column["is_number"] else "long" if column["is_long"] else ""
            if column["name"] == "verdict":
                style = styles.get(text.partition(" (")[0], "no" if text.startswith("not ") else "open")
            cells.append({"text": text, "style": style, "is_best": (number, column["name"]) in best})
        rows.append(cells)
    return {"columns": columns, "rows": rows, "is_folded": len(rows) > MANY}


def _embedded(catalogue: Catalogue, name: str, caption: str) -> dict[str, Any]:
    """A figure as a data URI, in at most 256 colours, which nobody sees and which makes it small."""
    with Image.open(catalogue.figures / f"{name}.png") as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    buffer = BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    width, height = (round(side * SCREEN * 1.15 / PIXELS_PER_INCH) for side in small.size)
    link = f"../../figures/{catalogue.profile}/{name}.svg"  # from where run_all.sh puts the results in the end
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return {"data": data, "width": width, "height": height, "caption": caption, "link": link}
