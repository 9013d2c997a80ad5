import json
import shutil

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

import g2e_lib
from g2e_lib.project import command, config, runner
from g2e_lib.project.command import Hooks
from g2e_lib.project.results import Results

# Settings of the notebooks that their cells do not show.
DEFAULTS = {"01_second": {"steps": 5, "rate": 0.1, "seed": 0, "hidden": 1}}
WRITE = """import os, pathlib, time
folder = pathlib.Path(os.environ["G2E_RESULTS"])
(folder / "out{0}.txt").write_text(str({1}))
(folder / "when{0}.txt").write_text(str(time.time()))"""


def notebook(path, parameters, *cells):
    tagged = new_code_cell(f'run = "mini"\n{parameters}', metadata={"tags": ["parameters"]})
    made = new_notebook(cells=[tagged, *map(new_code_cell, cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)


def execute_here(path, output, parameters):
    """What papermill does, in this process: a kernel takes seconds to start."""
    names = {}
    for cell in nbformat.read(path, as_version=4).cells:
        exec(cell.source, names)
        names |= parameters if "parameters" in cell.metadata.get("tags", []) else {}
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text("executed")


@pytest.fixture
def project(project_with_kernel, monkeypatch):
    """The same project, its notebooks executed without a kernel."""
    monkeypatch.setattr(runner, "run_notebook", execute_here)
    return project_with_kernel


@pytest.fixture
def project_with_kernel(tmp_path, monkeypatch):
    """A project with notebooks of its own."""
    for name in ("NOTEBOOKS", "RESULTS", "FIGURES"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    monkeypatch.setattr(config, "ROOT", tmp_path)
    profiles = tmp_path / "notebooks" / "profiles"
    monkeypatch.setattr(config, "PROFILES", profiles)
    profiles.mkdir(parents=True)
    (profiles / "mini.yaml").write_text("01_second:\n  steps: 7\n")
    (profiles / "other.yaml").write_text("notebooks: [00_first]\n")
    notebook(tmp_path / "notebooks" / "00_first.ipynb", "seed = 0  # number", WRITE.format(0, "seed"))
    hidden = "import json\nhidden = json.loads((folder / 'run.json').read_text())['settings']['01_second']['hidden']\n"
    shown = WRITE.replace("(folder", f"{hidden}(folder", 1).format(1, "(steps, rate, seed, hidden)")
    notebook(tmp_path / "notebooks" / "01_second.ipynb", "steps = 5\nrate = 0.1\nseed = 0", shown)
    for name in (config.RESULTS_VARIABLE, config.FIGURES_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def start(*arguments, **hooks):
    return command.main(arguments, Hooks(defaults=lambda: DEFAULTS, **hooks))


def read(project, name, run="mini"):
    return (project / "results" / run / name).read_text()


def record(project, run="mini"):
    return json.loads(read(project, "run.json", run))


def test_settings_of_profile_and_command_line_arrive(project_with_kernel, capsys):
    assert start("--as", "mine", "-p", "rate", "2", "-p", "seed", "3", "-p", "hidden", "9") == 0
    assert read(project_with_kernel, "out0.txt", "mine") == "3"
    assert read(project_with_kernel, "out1.txt", "mine") == "(7, 2.0, 3, 9)"
    assert (project_with_kernel / "results/mine/notebooks/01_second.ipynb").exists()
    assert record(project_with_kernel, "mine")["settings"]["01_second"] == {
        "steps": 7,
        "rate": 2.0,
        "seed": 3,
        "hidden": 9,
    }
    assert Results("mine").settings("01_second")["hidden"] == 9
    assert Results("mine").profile == "mini"
    assert not Results("mine").is_fresh
    assert all(facts["commit"] for facts in record(project_with_kernel, "mine")["notebooks"].values())
    out = capsys.readouterr().out
    assert "[2/2] 01_second" in out
    assert "results/mine/" in out
    assert not (project_with_kernel / ".staging" / "mine").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-p", "sed", "3"],
            "unknown parameter 'sed'. The notebooks to run have: 00_first: seed; 01_second: steps, rate, seed, hidden",
        ),
        (["-p", "steps", "many"], "parameter steps takes a int such as 5, not 'many'"),
        (["-p", "steps", "1.5"], "parameter steps takes a int such as 5, not '1.5'"),
        (["--only", "00", "-p", "steps", "3"], "unknown parameter 'steps'. The notebooks to run have: 00_first: seed"),
        (["-p", "run", "x"], "unknown parameter 'run'"),
        (["--only", "7"], "profile mini has no notebook 7: choose one of 00, 01"),
        (["--profile", "maxi"], "unknown profile 'maxi': choose one of mini"),
        (["--as", "../x"], "'../x' is no name for a run"),
        (["--as", "other", "-p", "seed", "3"], "'other' is the name of a profile"),
        (["--as", "reference"], "is used by run_all.sh itself"),
        (["compare", "a"], "usage: run_all.sh compare A B"),
        (["publish", "nothing"], "there is no run 'nothing': results/ has none yet"),
    ],
)
def test_wrong_command_lines_end_before_anything_runs(project, capsys, arguments, message):
    assert start(*arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (project / "results").exists()


def test_nothing_runs_without_consent(project):
    asked = []
    assert start("--only", "01", confirms=asked.append) == 0
    assert asked == [{"01_second": {"steps": 7, "rate": 0.1, "seed": 0, "hidden": 1}}]
    assert not (project / "results").exists()


def test_a_failing_cell_is_named_and_old_results_stay(project_with_kernel, capsys):
    assert start() == 0
    notebook(
        project_with_kernel / "notebooks" / "01_second.ipynb", "steps = 5", "1 + 1", 'raise ValueError("no such image")'
    )
    assert start() == 1
    error = capsys.readouterr().err
    assert "notebook 01_second failed in cell" in error
    assert "ValueError: no such image" in error
    executed = project_with_kernel / ".staging/mini/results/notebooks/01_second.ipynb"
    assert str(executed) in error
    assert "no such image" in executed.read_text()
    assert read(project_with_kernel, "out0.txt") == "0"  # of the run that succeeded


def test_only_and_from_keep_the_other_results(project):
    assert start() == 0
    first, second = read(project, "when0.txt"), read(project, "when1.txt")
    assert start("--only", "1") == 0
    assert read(project, "when0.txt") == first
    assert read(project, "when1.txt") != second
    assert [*record(project)["notebooks"]] == ["00_first", "01_second"]
    assert start("--from", "01") == 0
    assert read(project, "when0.txt") == first


@pytest.mark.parametrize("killed_at", ["results", "figures"])
def test_results_survive_a_kill_while_new_ones_take_their_place(project, monkeypatch, killed_at):
    """Between the two moves the old results are aside and the new ones not yet there."""
    assert start() == 0
    first, second, move = read(project, "when0.txt"), read(project, "when1.txt"), shutil.move

    def killed(source, place):
        if place.parent.name == killed_at:
            raise KeyboardInterrupt
        return move(source, place)

    monkeypatch.setattr(runner.shutil, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        start("--only", "01")
    monkeypatch.setattr(runner.shutil, "move", move)
    assert start("--only", "01") == 0
    assert read(project, "when0.txt") == first  # of the notebook that did not run again
    assert read(project, "when1.txt") != second
    assert not [path for path in (project / ".staging").rglob("*") if path.is_file()]


def test_list_names_notebooks_parameters_and_profiles(project, capsys):
    assert start("--list") == 0
    out = capsys.readouterr().out
    assert "00_first" in out
    assert "-p steps 5" in out
    assert "hidden 1" in out
    assert "profiles: mini, other" in out


def test_executed_copies_do_not_change_from_run_to_run(project_with_kernel):
    contents = []
    for _ in range(2):
        assert start("--only", "00") == 0
        contents.append((project_with_kernel / "results/mini/notebooks/00_first.ipynb").read_bytes())
    assert contents[0] == contents[1]


# --- variants ------------------------------------------------------------------------------------------------------


def test_a_variant_runs_only_what_differs_from_its_base(project):
    assert start() == 0
    assert start("-p", "hidden", "4") == 0
    variant = "mini-hidden-4"
    assert read(project, "when0.txt", variant) == read(project, "when0.txt")
    assert read(project, "out1.txt", variant) == "(7, 0.1, 0, 4)"
    assert read(project, "out1.txt") == "(7, 0.1, 0, 1)"
    assert record(project, variant)["base"] == "mini"
    assert start("--as", "all", "-p", "seed", "1") == 0  # of the first notebook too, and everything reads that one
    assert read(project, "when0.txt", "all") != read(project, "when0.txt")
    assert start("--as", "again", "-p", "hidden", "4", "--fresh") == 0
    assert read(project, "when0.txt", "again") != read(project, "when0.txt")


def test_a_variant_starts_from_the_reference_where_there_is_no_run(project):
    assert start() == 0
    published = project / "results" / "reference" / "mini"
    published.parent.mkdir()
    (project / "results" / "mini").rename(published)
    assert start("-p", "hidden", "4") == 0
    assert read(project, "when0.txt", "mini-hidden-4") == (published / "when0.txt").read_text()
    assert record(project, "mini-hidden-4")["base"] == "reference/mini"
    assert start("--only", "1") == 0  # so does a part of the profile
    assert read(project, "when0.txt") == (published / "when0.txt").read_text()


def test_results_of_another_version_are_no_base(project, monkeypatch):
    assert start() == 0
    monkeypatch.setattr("g2e_lib.project.plan.__version__", "9.9")
    assert start("-p", "hidden", "4") == 0
    assert read(project, "when0.txt", "mini-hidden-4") != read(project, "when0.txt")


def test_a_name_that_exists_is_refused_unless_settings_are_the_same(project, capsys):
    assert start("--as", "mine", "-p", "hidden", "4", "--only", "1") == 0
    before = read(project, "when1.txt", "mine")
    assert start("--as", "mine", "-p", "hidden", "5", "--only", "1") == 2
    assert "results/mine exists already with other settings (01_second: hidden)" in capsys.readouterr().err
    assert read(project, "when1.txt", "mine") == before
    assert start("--as", "mine", "-p", "hidden", "4", "--only", "1") == 0
    assert read(project, "when1.txt", "mine") != before
    assert start("--as", "mine", "--only", "0") == 0  # goes on with a notebook that has not run
    assert record(project, "mine")["settings"]["01_second"]["hidden"] == 4
    (project / "results" / "older").mkdir()
    assert start("--as", "older") == 2
    assert "no run.json says what made it" in capsys.readouterr().err


def test_a_long_list_of_parameters_makes_a_short_name(project):
    from g2e_lib.project.plan import LONGEST_NAME, variant_name

    many = [("miners", "[random, topk, threshold]"), ("subsets", "[ObjectName, ObjectKind]"), ("steps", "1")]
    name = variant_name("mini", many)
    assert len(name) <= LONGEST_NAME
    assert name != variant_name("mini", [*many[:2], ("steps", "2")])


# --- publishing ----------------------------------------------------------------------------------------------------


def test_publishing_makes_a_run_the_reference(project, capsys):
    told, refreshed = [], []
    hooks = {"summarizes": lambda *names: told.append(names) or "3 cells differ", "refreshes": refreshed.append}
    assert start() == 0
    assert start("publish", "mini", **hooks) == 0
    assert (project / "figures" / "reference" / "mini").is_dir()
    assert record(project, "reference/mini")["settings"] == record(project)["settings"]
    assert start("--as", "again", "--fresh") == 0
    assert start("publish", "results/again/", **hooks) == 0
    assert "3 cells differ" in capsys.readouterr().out
    assert told == [("again", "reference/mini")]
    assert refreshed == ["mini", "mini"]
    assert read(project, "when0.txt", "reference/mini") == read(project, "when0.txt", "again")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "hidden", "4"], "is a variant of profile mini (01_second has other settings)"),
        (["--only", "0"], "lacks 01_second"),
    ],
)
def test_only_a_whole_run_of_a_profile_is_published(project, capsys, arguments, message):
    assert start("--as", "mine", *arguments) == 0
    assert start("publish", "mine") == 2
    assert message in capsys.readouterr().err
    assert not (project / "results" / "reference").exists()


def test_results_of_another_version_are_not_published(project, capsys, monkeypatch):
    assert start() == 0
    monkeypatch.setattr("g2e_lib.project.results.__version__", "9.9")
    assert start("publish", "mini") == 2
    assert f"is of version {g2e_lib.__version__}, not 9.9" in capsys.readouterr().err


def test_a_published_run_asks_first_on_a_terminal(project, monkeypatch):
    assert start() == 0
    monkeypatch.setattr("builtins.input", lambda question: "n")
    assert command.publish("mini", Hooks(defaults=lambda: DEFAULTS), asks=True) == 0
    assert not (project / "results" / "reference").exists()
