"""The published site as a browser shows it: nothing fetched, nothing wider than a phone."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import nbformat
import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from g2e_lib.project import config
from g2e_lib.report.pages import write_notebook_pages

FOLDER = config.RESULTS / "reference" / "mini"
REPORT = FOLDER / "report.html"
PAGES = sorted(FOLDER.glob("*.html"))
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MOST_BYTES = 6 * 2**20
VOID = ("meta", "img", "br", "hr", "col")


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser to look with: none of {', '.join(BROWSERS)} is installed")
    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run"]
    return [found, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *quiet]


def photograph(browser, page, folder, width):
    """A screenshot of a page in grey, and the addresses its browser asked for, but for the maker's own services."""
    shot, log = folder / "shot.png", folder / "net.json"
    size = [f"--window-size={width},1600", f"--screenshot={shot}", f"--log-net-log={log}"]
    command = [*browser, *size, f"--user-data-dir={folder}/profile", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    with Image.open(shot) as image:
        grey = np.asarray(image.convert("L"))
    requested = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text(errors="ignore")))
    return grey, {url for url in requested if not re.search(r"google|gvt1\.com", url)}


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags nest."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.links += [attributes["href"]] if tag == "a" else []
        self.sources += [attributes[name] for name in ("src", "srcset", "data") if name in attributes]
        assert tag not in ("script", "link", "iframe", "object"), tag
        assert tag != "img" or attributes["alt"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert tag in VOID or self.open.pop() == tag


def read(path):
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_needs_nothing_else(path):
    page, text = read(path), path.read_text(encoding="utf-8")
    assert path.stat().st_size < (MOST_BYTES if path == REPORT else MOST_BYTES // 4)
    assert len(page.sources) > 15 or path != REPORT
    assert all(source.startswith("data:image/") for source in page.sources)
    assert "url(" not in text
    assert "@import" not in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = [link for link in read(path).links if not link.startswith("https://")]
    for link in links:
        file, _, place = link.partition("#")
        assert not place or file or f'id="{place}"' in text, link
        assert not file or (path.parent / file).is_file(), link
    notebooks = {f"{notebook.stem}.html" for notebook in config.NOTEBOOKS.glob("[0-9]*.ipynb")}
    assert notebooks <= set(links) if path == REPORT else "report.html" in links


def test_notebooks_become_pages_with_formulas_and_without_scripts(tmp_path):
    cells = [
        new_markdown_cell("# A question\n\nwhere $x_i^+$ and `$not this$`\n\n[next](01_b.ipynb)"),
        new_markdown_cell(r"$$s = \frac{a}{b} \\ t = 1$$"),
        new_code_cell(
            "1 + 1", outputs=[new_output("display_data", {"application/javascript": "run()", "text/plain": "2"})]
        ),
        new_markdown_cell("$\\nonsense{$"),
    ]
    (tmp_path / "notebooks").mkdir()
    for name in ("00_a", "01_b"):
        nbformat.write(new_notebook(cells=cells), tmp_path / "notebooks" / f"{name}.ipynb")
    first, second = write_notebook_pages(tmp_path)
    page, text = read(first), first.read_text(encoding="utf-8")
    assert (first.name, second.name) == ("00_a.html", "01_b.html")
    assert [source.partition(";")[0] for source in page.sources] == ["data:image/svg+xml"] * 3
    assert "<code>$not this$</code>" in text
    assert "<code>\\nonsense{</code>" in text  # cannot be drawn
    assert "run()" not in text
    assert page.links.count("01_b.html") == 3  # in the text, above and below
    before = first.read_bytes()
    write_notebook_pages(tmp_path)
    assert first.read_bytes() == before


@pytest.mark.parametrize("name", ["report.html", "02_mining.html"])
@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it(browser, tmp_path, width, name):
    grey, requested = photograph(browser, FOLDER / name, tmp_path, width)
    assert grey.shape[1] == width
    assert (grey < 100).mean() > 0.01  # letters
    assert (grey > 240).mean() > 0.5  # on light ground
    assert not requested


def test_a_page_that_asks_the_network_would_be_noticed(browser, tmp_path):
    page = tmp_path / "asking.html"
    page.write_text('<img src="http://localhost:9/picture.png">')
    assert photograph(browser, page, tmp_path, 390)[1] == {"http://localhost:9/picture.png"}


@pytest.mark.parametrize("name", [path.name for path in PAGES])
def test_a_phone_needs_no_sideways_scrolling(browser, tmp_path, name):
    """A frame of a phone's width holds the page; the page around it says how wide the content became."""
    outer = tmp_path / "outer.html"
    content = (FOLDER / name).read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    measure = "const d = this.contentDocument.documentElement; document.title = d.scrollWidth + ' of ' + d.clientWidth"
    outer.write_text(f'<body><iframe width="390" height="800" srcdoc="{content}" onload="{measure}"></iframe>')
    done = subprocess.run([*browser, "--dump-dom", f"--user-data-dir={tmp_path}/profile", outer.as_uri()],
                          capture_output=True, text=True, check=True, timeout=120)  # fmt: skip
    widths = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert widths, done.stdout[:300]
    assert int(widths[1]) <= int(widths[2]) <= 390
