"""The generated parts of the README are up to date, and no result is typed by hand."""

import re

import pytest

from g2e_lib.project import config
from g2e_lib.report import Report, readme

TEXT = (config.ROOT / readme.NAME).read_text(encoding="utf-8")


def by_hand():
    """The README without its generated blocks and code."""
    text = TEXT
    for name in readme.BLOCKS:
        text = re.sub(rf"<!-- {name}:start -->.*<!-- {name}:end -->", "", text, flags=re.DOTALL)
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_numbers_are_those_of_the_stored_results():
    assert readme.render(TEXT, Report(readme.RUN)) == TEXT, "stale: `./run_all.sh publish` refreshes it"


def test_no_result_is_typed_by_hand():
    text = by_hand().partition("## Departures")[0]  # there settings stand, the papers' and ours
    assert not re.findall(r"[+-]?\d+(?:\.\d+)?\s*(?:%|points|seconds|minutes|times)", text)
    assert not re.findall(r"\[[+-]?\d+\.\d, [+-]?\d+\.\d\]", text)


def test_lost_marks_are_told():
    with pytest.raises(ValueError, match="must have the marks <!-- results:start -->"):
        readme.render(TEXT.replace("<!-- results:start -->", ""), Report(readme.RUN))


def test_every_notebook_and_module_is_listed():
    for path in config.NOTEBOOKS.glob("*.ipynb"):
        assert f"](notebooks/{path.name})" in TEXT, path.name
    for path in config.PACKAGE.glob("*.py"):
        assert f"](g2e_lib/{path.name})" in TEXT or path.stem.startswith("__"), path.name


def test_blocks_are_short_and_narrow():
    report = Report(readme.RUN)
    blocks = {name: make(report) for name, make in readme.BLOCKS.items()}
    tables = [line for name in ("results", "scores") for line in blocks[name].splitlines() if line.startswith("|")]
    assert max(map(len, tables)) <= 130
    assert blocks["results"].count("\n|") == 6  # five findings
    assert blocks["scores"].splitlines()[0].count("|") == 6  # five columns


def test_it_fits():
    assert len(TEXT.splitlines()) <= 250


def test_publishing_refreshes_pages_and_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(readme.config, "ROOT", tmp_path)
    monkeypatch.setattr(readme, "write_site", lambda report: written.append(report.profile))
    written = []
    text = "by hand" + "".join(f"<!-- {name}:start -->old<!-- {name}:end -->" for name in readme.BLOCKS)
    (tmp_path / "README.md").write_text(text)
    assert not readme.refresh(Report("reference/smoke"))  # another profile than the README's
    assert readme.refresh(Report(readme.RUN))
    assert not readme.refresh(Report(readme.RUN))  # nothing new
    new = (tmp_path / "README.md").read_text()
    assert new.startswith("by hand")
    assert "old" not in new.replace("threshold", "")
    assert written == ["smoke", "mini", "mini"]
