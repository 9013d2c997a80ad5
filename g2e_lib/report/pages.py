"""The pages of a run's results: `claims.md`, `report.html`, and each executed notebook as a page beside it.

They need no network and no script: pictures and formulas are inside, tables scroll by themselves on a small screen.
"""

import base64
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import nbformat
import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import escape
from matplotlib.font_manager import FontProperties
from matplotlib.mathtext import math_to_image
from PIL import Image

from g2e_lib.project.config import PACKAGE
from g2e_lib.project.store import write_text
from g2e_lib.report import Report, claims
from g2e_lib.report.look import size_on_screen
from g2e_lib.report.registry import ENTRIES, Entry
from g2e_lib.report.text import to_html

TEMPLATES = Environment(loader=FileSystemLoader(PACKAGE / "report" / "templates"), autoescape=True)
MANY = 12  # a table of more rows is folded
LETTER = 120  # points, of formulas: large, since the sides of a picture are whole points and what sticks out is cut

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


def write_site(report: Report) -> list[Path]:
    """Write `claims.md` and `report.html` from what is stored and drawn; returns their paths."""
    table = report.save_claims()
    pages = {"claims.md": claims.claims_markdown(table, report.profile), "report.html": report_html(report)}
    for name, text in pages.items():
        write_text(report.folder / name, text)
    return [report.folder / name for name in pages]


def report_html(report: Report) -> str:
    """The report as one HTML text; figures are read from where they were saved."""
    table = report.claims_now()
    short = report.claims_now(chosen=lambda claim: not claim.is_detail)
    rest = [name for name in table if name not in CLAIM_COLUMNS]
    return TEMPLATES.get_template("report.html").render(
        profile=report.profile,
        rules=claims.RULES,
        comparability=claims.comparability(report.profile),
        tally=[counted.split(" ", 1) for counted in claims.tally(table).split(", ")],
        claims=to_html(short[CLAIM_COLUMNS]),
        all_claims=to_html(table[[*CLAIM_COLUMNS, *rest]]),
        notebooks=_executed(report.folder),
        sections=[found for found in (_section(report, stem) for stem in SECTIONS) if found["drawn"]],
        provenance=to_html(provenance_table(report)),
    )


def provenance_table(report: Report) -> pd.DataFrame:
    """One row a metrics file: what it was made with."""
    rows = []
    for path in sorted((report.folder / "metrics").glob("*.json")):
        facts = report.metrics(path.stem).get("provenance", {})
        shown = {key: str(facts.get(key, "–")) for key in ("model", "data", "seed", "device", "dtype", "n", "seconds")}
        libraries = ", ".join(f"{name} {version}" for name, version in facts.get("libraries", {}).items())
        rows.append({"metrics": path.stem, "commit": str(facts.get("commit", "–"))[:12], **shown, "with": libraries})
    return pd.DataFrame(rows)


def _executed(folder: Path) -> list[str]:
    """The stems of the executed notebooks."""
    return [path.stem for path in sorted((folder / "notebooks").glob("*.ipynb"))]


def _section(report: Report, stem: str) -> dict[str, Any]:
    title, metrics = SECTIONS[stem]
    of_it = [entry for entry in ENTRIES.values() if entry.needs[0] in metrics and all(map(report.has, entry.needs))]
    drawn = [_figure(report, entry) for entry in of_it if entry.kind == "figure"]
    drawn += [_table(report, entry) for entry in of_it if entry.kind == "table"]
    has_page = stem in _executed(report.folder)
    return {"id": stem, "title": title, "has_page": has_page, "drawn": [shown for shown in drawn if shown]}


def _table(report: Report, entry: Entry) -> dict[str, Any] | None:
    table = report.make(entry)
    if table is None:
        return None
    return {"caption": entry.caption, "table": to_html(table), "rows": len(table), "is_folded": len(table) > MANY}


def _figure(report: Report, entry: Entry) -> dict[str, Any] | None:
    """A saved figure as a data URI; ablations have a panel with all of them, so single ones are left out."""
    path = report.figures / f"{entry.name}.png"
    if not path.is_file() or entry.name.startswith("ablation_"):
        return None
    data = small_png(path.read_bytes())
    width, height = size_on_screen(path)
    up = "../" * (2 + report.name.count("/"))  # from where the results are put in the end
    link = f"{up}figures/{report.name}/{entry.name}.svg"
    return {"data": data, "width": width, "height": height, "caption": entry.caption, "link": link}


def small_png(content: bytes) -> str:
    """A picture in base 64, in at most 256 colours, which nobody sees and which makes it small."""
    with Image.open(BytesIO(content)) as image:
        small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    buffer = BytesIO()
    small.save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


# --- notebooks -----------------------------------------------------------------------------------------------------


def write_notebook_pages(folder: Path) -> list[Path]:
    """Write each of `notebooks/*.ipynb` in a folder of results as a page beside `report.html`; returns their paths."""
    stems = _executed(folder)
    for stem in stems:
        notebook = nbformat.read(folder / "notebooks" / f"{stem}.ipynb", as_version=4)
        write_text(folder / f"{stem}.html", notebook_html(notebook, stem, stems))
    return [folder / f"{stem}.html" for stem in stems]


def notebook_html(notebook: nbformat.NotebookNode, stem: str, stems: list[str]) -> str:
    """An executed notebook, which is changed in place, as a page; `stems` of all are linked to and fro."""
    from nbconvert import HTMLExporter  # here: it takes a second to import, and only pages need it
    from pygments.formatters import HtmlFormatter

    notebook.metadata.pop("widgets", None)  # they need a script
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_formulas(cell.source)
        for output in cell.get("outputs", ()):
            if data := output.get("data"):
                for kind in [kind for kind in data if "widget" in kind or "javascript" in kind]:
                    del data[kind]
                if "image/png" in data:
                    data["image/png"] = small_png(base64.b64decode(data["image/png"]))
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.exclude_anchor_links = True
    body = exporter.from_notebook_node(notebook)[0]
    known = "|".join(map(re.escape, stems))
    body = re.sub(rf'href="(?:\.?/|\.\./notebooks/)?({known})\.ipynb(#[^"]*)?"', r'href="\1.html\2"', body)
    highlight = HtmlFormatter(style="default").get_style_defs(".highlight")
    place = stems.index(stem)
    beside = {"before": stems[place - 1] if place else "", "after": next(iter(stems[place + 1 :]), "")}
    return TEMPLATES.get_template("notebook.html").render(stem=stem, body=body, highlight=highlight, **beside)


def with_formulas(markdown: str) -> str:
    """Markdown with its formulas, $...$ and $$...$$, as pictures; what is code stays as it is."""

    def shown(found: re.Match) -> str:
        if found["code"]:
            return found[0]
        if found["inline"]:
            return formula_html(found["inline"])
        text = re.sub(r"\\(?:begin|end)\{\w+\*?\}(?:\{\w+\})?", "", found["block"]).replace("&", " ")
        lines = [formula_html(line.strip()) for line in re.split(r"\\\\(?:\[\w+\])?", text) if line.strip()]
        return f'<span class="formulas">{"<br>".join(lines)}</span>'

    inline = r"\$(?![\s$])(?P<inline>[^$\n]+?)(?<!\s)\$(?!\d)"
    return re.sub(rf"(?P<code>```.*?```|`[^`]*`)|\$\$(?P<block>.+?)\$\$|{inline}", shown, markdown, flags=re.DOTALL)


def formula_html(formula: str) -> str:
    """A formula as a picture that stands on the line of its text; one that cannot be drawn, as its source."""
    buffer, source = BytesIO(), " ".join(formula.replace(r"\tfrac", r"\frac").replace(r"\lVert", r"\|").split())
    source = re.sub(r"\\([lg]e)\b", r"\\\1q", source.replace(r"\rVert", r"\|"))
    # The space at the end is for slanted letters, which are wider than they say.
    try:
        with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "g2e_lib", "mathtext.fontset": "cm"}):
            depth = math_to_image(rf"${source}\,$", buffer, FontProperties(size=LETTER), dpi=72, format="svg")
    except ValueError:
        return f"<code>{escape(formula)}</code>"
    drawn = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue().decode(), flags=re.DOTALL)  # it has a date
    height = float(re.search(r'height="([\d.]+)pt"', drawn)[1])
    style = f"height:{height / LETTER:.2f}em;vertical-align:-{depth / LETTER:.2f}em"
    data = base64.b64encode(drawn.encode()).decode("ascii")
    return f'<img class="formula" alt="{escape(formula)}" style="{style}" src="data:image/svg+xml;base64,{data}">'
