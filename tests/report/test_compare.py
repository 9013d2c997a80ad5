import numpy as np
import pytest

import g2e_lib
from g2e_lib.project import config
from g2e_lib.project.bootstrap import percent_estimate
from g2e_lib.project.results import Results
from g2e_lib.project.store import write_json, write_text
from g2e_lib.report import compare

FACTS = {"A": {"distribution": "IND"}, "B": {"distribution": "OOD"}}
TABLE = """method,Overall,seconds
saha,"50.0 [40.0, 60.0]",1.5
topk,"30.0 [20.0, 40.0]",2.5
"""
CLAIMS = """claim,ours,verdict
it works,"+1.0 [+0.5, +1.5]",reproduced
"""


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """Writes the results of a run."""
    for name in ("RESULTS", "FIGURES"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    monkeypatch.setattr(config, "ROOT", tmp_path)
    for name in (config.RESULTS_VARIABLE, config.FIGURES_VARIABLE):
        monkeypatch.delenv(name, raising=False)

    def make(name, answers=None, data="d", table=TABLE, claims=CLAIMS, **settings):
        folder = tmp_path / "results" / name
        record = {"name": name, "profile": "mini", "base": "", "g2e_lib": g2e_lib.__version__, "notebooks": {}}
        write_json(folder / "run.json", record | {"settings": {"03_training": settings}})
        write_json(folder / "metrics" / "setup.json", {"provenance": {"data": data}})
        if answers is not None:
            groups = {"overall": vars(percent_estimate({n: np.array([*map(int, v)]) for n, v in answers.items()}))}
            method = {"groups": groups, "right": {name: [text] for name, text in answers.items()}}
            training = {"provenance": {"data": data}, "datasets": FACTS, "methods": {"saha": method}}
            write_json(folder / "metrics" / "training.json", training)
        write_text(folder / "tables" / "scores.csv", table)
        write_text(folder / "tables" / "claims.csv", claims)
        return Results(name)

    return make


def test_cells_are_counted_by_how_they_differ(make_run):
    reference = make_run("reference/mini")
    table = TABLE.replace("50.0 [40.0", "58.0 [48.0").replace("30.0 [20.0", "41.0 [31.0").replace("1.5\n", "9\n")
    ours = make_run("mini", table=table, claims=CLAIMS.replace("reproduced", "not reproduced"))
    found = compare.compare_tables(ours, reference)
    assert found.equal == 4  # two names of methods, a claim, and its number
    assert found.measured == 2
    assert found.within == ["scores: saha: Overall: 58.0 [48.0, 60.0], there 50.0 [40.0, 60.0]"]
    assert found.outside == ["scores: topk: Overall: 41.0 [31.0, 40.0], there 30.0 [20.0, 40.0]"]
    assert found.verdicts == ["claims: it works: verdict: not reproduced, there reproduced"]


def test_the_same_tables_differ_in_nothing(make_run):
    found = compare.compare_tables(make_run("a"), make_run("b"))
    assert (found.equal, found.within, found.outside, found.verdicts) == (7, [], [], [])


def test_rows_and_tables_that_one_lacks_are_named(make_run):
    ours, theirs = make_run("mini", table=TABLE.rpartition("topk")[0]), make_run("reference/mini")
    write_text(theirs.folder / "tables" / "further.csv", "a\n1\n")
    named = "\n".join(compare.compare_tables(ours, theirs).outside)
    assert "scores: topk: only the other has this row" in named
    assert "further: only results/reference/mini has this table" in named


def test_rows_with_the_same_first_cell_are_told_apart(make_run):
    table = "set,layer,share\na,1,5\na,2,6\n"
    found = compare.compare_tables(make_run("a", table=table), make_run("b", table=table.replace("2,6", "2,7")))
    assert found.outside == ["scores: a, 2: share: 6, there 7"]


def test_a_run_ends_with_the_reference(make_run, capsys):
    make_run("mini")
    compare.conclude("mini")
    assert "there is no reference of profile mini" in capsys.readouterr().out
    make_run("reference/mini")
    compare.conclude("mini")
    out = capsys.readouterr().out
    assert "Your run against the reference" in out
    assert "7 cells equal, 0 within the interval, 0 outside, 0 verdicts differ; 2 cells are measured" in out
    make_run("variant")
    compare.conclude("variant")
    assert "./run_all.sh compare variant" in capsys.readouterr().out


def test_scores_are_paired_where_the_same_queries_were_answered(make_run):
    ours = make_run("a", {"A": "1" * 30, "B": "10" * 15})
    theirs = make_run("b", {"A": "10" * 15, "B": "10" * 15})
    (row,) = compare.score_rows(ours, theirs, ["training"])
    assert row["how"] == "paired"
    expected = percent_estimate({"A": np.array([0.0, 1.0] * 15), "B": np.zeros(30)})
    assert row["difference"] == vars(expected)
    (row,) = compare.score_rows(ours, make_run("c", {"A": "1" * 20, "B": "1" * 30}), ["training"])
    assert row["how"] == "unpaired"
    assert row["difference"]["low"] < row["difference"]["value"] < row["difference"]["high"]


def test_a_comparison_is_printed_and_stored(make_run, capsys):
    make_run("a", {"A": "11", "B": "10"}, steps=30)
    make_run("reference/mini", {"A": "10", "B": "10"}, steps=60, claims=CLAIMS.replace("reproduced", "<open>"))
    folder = compare.compare_runs("a", "reference/mini")
    assert folder.name == "compare-a-reference-mini"
    text, page = (folder / "comparison.md").read_text(), (folder / "comparison.html").read_text()
    assert text in capsys.readouterr().out
    assert "| 03_training | steps       | 30  | 60               |" in text
    assert "+25.0" in text
    assert "SaHa" in text  # names as tables show them
    assert "verdicts that differ" in text.lower()
    assert "<svg" in page
    assert "&lt;open&gt;" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")  # the figure's own metadata
    assert (folder / "differences.png").is_file()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a"), "'a' would be compared with itself"),
        (("a", "nothing"), "there is no run 'nothing': results/ has a, old, others"),
        (("a", "reference/study"), "there is no reference of profile study"),
        (("a", "old"), "results/old/ is of version 0.0.9, not"),
        (("a", "others"), "were made with different data (d and e)"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_sentence(make_run, names, message):
    make_run("a", {"A": "10"})
    make_run("others", {"A": "10"}, data="e")
    old = make_run("old")
    write_json(old.folder / "run.json", old.record | {"g2e_lib": "0.0.9"})
    with pytest.raises(ValueError, match=".*") as error:
        compare.compare_runs(*names)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
