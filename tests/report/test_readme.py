"""The generated parts of the README are up to date, and no result is typed by hand."""

import re

import pytest

from g2e_lib.project import config
from g2e_lib.report import readme
from g2e_lib.report.catalogue import Catalogue

TEXT = (config.ROOT / readme.NAME).read_text(encoding="utf-8")


def by_hand():
    """The README without its generated blocks and code."""
    text = TEXT
    for name in readme.BLOCKS:
        text = re.sub(rf"<!-- {name}:start -->.*<!-- {name}:end -->", "", text, flags=re.DOTALL)
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def test_numbers_are_those_of_the_stored_results():
    assert readme.render(TEXT, Catalogue(readme.PROFILE)) == TEXT, "stale: run `python -m g2e_lib.report.readme`"


def test_no_result_is_typed_by_hand():
    text = by_hand().partition("## Departures")[0]  # there settings stand, the papers' and ours
    assert not re.findall(r"[+-]?\d+(?:\.\d+)?\s*(?:%|points|seconds|minutes|times)", text)
    assert not re.findall(r"\[[+-]?\d+\.\d, [+-]?\d+\.\d\]", text)


def test_lost_marks_are_told():
    with pytest.raises(ValueError, match="must have the marks <!-- results:start -->"):
        readme.render(TEXT.replace("<!-- results:start -->", ""), Catalogue(readme.PROFILE))


def test_every_notebook_and_module_is_listed():
    for path in config.NOTEBOOKS.glob("*.ipynb"):
        assert f"](notebooks/{path.name})" in TEXT, path.name
    for path in config.PACKAGE.glob("*.py"):
        assert f"](g2e_lib/{path.name})" in TEXT or path.name == "__init__.py", path.name
