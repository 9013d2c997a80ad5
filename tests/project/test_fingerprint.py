"""Which code is part of a cache key, and what of it."""

import pytest

from g2e_lib.project import fingerprint as module
from g2e_lib.project.fingerprint import code_fingerprint, decisive_modules

# What an embedding depends on. A module more is right if it decides one; a cache or a drawing does not.
EMBEDDING = {
    *("backbone.checkpoint", "backbone.images", "backbone.inputs", "backbone.processor", "backbone.qwen2vl"),
    *("data.images", "data.items", "embedder", "prompts"),
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package made of the given files, `b__c` for b/c.py; call it again to change some."""
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "g2e_lib")

    def write(**files):
        for name, code in files.items():
            path = tmp_path / "g2e_lib" / f"{name if '/' in name else name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(code, encoding="utf-8")

    return write


def test_what_decides_an_embedding():
    found = {name for name in decisive_modules("embedder") if name not in ("backbone", "data")}
    assert found == EMBEDDING


def test_training_depends_on_all_of_the_method_and_scores_on_the_embedder():
    training = set(decisive_modules("train"))
    assert {"train", "train_config", "gradcache", "unime", "saha", "embedder", "data.subsets"} <= training
    assert set(decisive_modules("evaluation.scores")) > EMBEDDING
    for name in (*training, *decisive_modules("glyphworld.benchmark")):
        assert name.partition(".")[0] not in ("project", "report")


CODE = '''"""Module."""
LIMIT = 3  # of things


class Box:
    """A box."""

    def size(self, factor: int = 2) -> int:
        """How large."""
        return LIMIT * factor
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Module."""\n', ""),
        ('"""A box."""', '"""Something else entirely,\n\n    in two lines."""'),
        ('        """How large."""\n', ""),
        ("  # of things", ""),
        ("return LIMIT * factor", "return (\n            LIMIT  # of things\n            * factor\n        )"),
    ],
)
def test_docstrings_comments_and_layout_change_nothing(package, old, new):
    assert old in CODE
    package(a=CODE)
    before = code_fingerprint("a")
    package(a=CODE.replace(old, new))
    assert code_fingerprint("a") == before


@pytest.mark.parametrize(("old", "new"), [("LIMIT = 3", "LIMIT = 4"), ("= 2", "= 3"), ("* factor", "+ factor")])
def test_a_constant_a_default_and_an_operator_change_it(package, old, new):
    package(a=CODE)
    before = code_fingerprint("a")
    package(a=CODE.replace(old, new))
    assert code_fingerprint("a") != before


def test_a_string_that_is_no_docstring_counts(package):
    package(a='def name():\n    """Doc."""\n    return "x"\n')
    before = code_fingerprint("a")
    package(a='def name():\n    """Doc."""\n    return "y"\n')
    assert code_fingerprint("a") != before


@pytest.mark.parametrize(
    "line",
    [
        "import g2e_lib.b.c",
        "from g2e_lib.b.c import X",
        "from g2e_lib.b import c",
        "def f():\n    from g2e_lib.b import c",
    ],
)
def test_imports_are_followed_wherever_they_stand(package, line):
    package(a="", b__c="from g2e_lib import d\nX = 1\n", d="Y = 1\n")
    assert list(decisive_modules("a")) == ["a"]
    package(a=line)
    assert list(decisive_modules("a")) == ["a", "b.c", "d"]
    before = code_fingerprint("a")
    package(d="Y = 2\n")
    assert code_fingerprint("a") != before


def test_code_of_a_folder_counts_with_its_modules(package):
    package(b__c="", **{"b/__init__": ""})
    before = code_fingerprint("b.c")
    package(**{"b/__init__": "X = 1"})
    assert code_fingerprint("b.c") != before


def test_places_records_and_drawings_are_not_entered(package):
    package(a="from g2e_lib.project.x import y\nfrom g2e_lib.report import z", b="")
    package(project__x="import g2e_lib.b", report__z="")
    assert list(decisive_modules("a")) == ["a"]


def test_circles_end(package):
    package(a="import g2e_lib.b\n", b="import g2e_lib.a\nimport g2e_lib.b\n")
    assert list(decisive_modules("a")) == list(decisive_modules("b")) == ["a", "b"]


def test_a_file_is_parsed_once_until_it_changes(package, monkeypatch):
    parsed, parse = [], module.ast.parse
    monkeypatch.setattr(module.ast, "parse", lambda code: parsed.append(code) or parse(code))
    package(a="import g2e_lib.b", b="X = 1")
    code_fingerprint("a")
    code_fingerprint("b", "a")
    assert len(parsed) == 2
    package(b="X = 22")
    code_fingerprint("a")
    assert parsed[2:] == ["X = 22"]


def test_faults_are_named(package):
    package(a="from .b import c")
    with pytest.raises(ValueError, match="has no module 'b.c': give a dotted name such as"):
        code_fingerprint("b.c")
    with pytest.raises(ValueError, match=r"a.py has a relative import: name the module from g2e_lib on"):
        code_fingerprint("a")
