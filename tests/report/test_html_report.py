"""report.html as a browser shows it: one file, nothing fetched, nothing wider than a phone."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from g2e_lib.project import config

REPORT = config.RESULTS / "mini" / "report.html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
MOST_BYTES = 6 * 2**20


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
        if tag not in ("meta", "img", "br", "hr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page():
    page = Page()
    page.feed(REPORT.read_text(encoding="utf-8"))
    assert not page.open
    return page


def test_one_file_that_needs_nothing_else(page):
    assert REPORT.stat().st_size < MOST_BYTES
    assert len(page.sources) > 15
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "url(" not in REPORT.read_text(encoding="utf-8")
    assert "@import" not in REPORT.read_text(encoding="utf-8")


def test_links_are_relative_and_lead_somewhere(page):
    text = REPORT.read_text(encoding="utf-8")
    for link in page.links:
        if link.startswith("#"):
            assert f'id="{link[1:]}"' in text, link
        else:
            assert (REPORT.parent / link).is_file(), link
    assert any(link.endswith(".ipynb") for link in page.links)


@pytest.mark.parametrize("width", [390, 1200])
def test_a_browser_shows_it(browser, tmp_path, width):
    grey, requested = photograph(browser, REPORT, tmp_path, width)
    assert grey.shape[1] == width
    assert (grey < 100).mean() > 0.01  # letters
    assert (grey > 240).mean() > 0.5  # on light ground
    assert not requested


def test_a_page_that_asks_the_network_would_be_noticed(browser, tmp_path):
    page = tmp_path / "asking.html"
    page.write_text('<img src="http://localhost:9/picture.png">')
    assert photograph(browser, page, tmp_path, 390)[1] == {"http://localhost:9/picture.png"}


def test_a_phone_needs_no_sideways_scrolling(browser, tmp_path):
    """A frame of a phone's width holds the report; the page around it says how wide the content became."""
    outer = tmp_path / "outer.html"
    content = REPORT.read_text(encoding="utf-8").replace("&", "&amp;").replace('"', "&quot;")
    measure = "const d = this.contentDocument.documentElement; document.title = d.scrollWidth + ' of ' + d.clientWidth"
    outer.write_text(f'<body><iframe width="390" height="800" srcdoc="{content}" onload="{measure}"></iframe>')
    done = subprocess.run([*browser, "--dump-dom", f"--user-data-dir={tmp_path}/profile", outer.as_uri()],
                          capture_output=True, text=True, check=True, timeout=120)  # fmt: skip
    widths = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout)
    assert widths, done.stdout[:300]
    assert int(widths[1]) <= int(widths[2]) <= 390
