import json

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from g2e_lib.project import config
from g2e_lib.project import runner as run


def notebook(path, parameters, *cells):
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    made = new_notebook(cells=[tagged, *map(new_code_cell, cells)])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(made, path)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with two notebooks of its own."""
    for name in ("NOTEBOOKS", "RESULTS", "FIGURES"):
        monkeypatch.setattr(config, name, tmp_path / name.lower())
    monkeypatch.setattr(config, "ROOT", tmp_path)
    monkeypatch.setattr(config, "PROFILES", tmp_path / "notebooks" / "profiles")
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    (tmp_path / "notebooks" / "profiles" / "mini.yaml").write_text("00_first:\n01_second:\n  steps: 7\n")
    head = 'profile = "mini"\nis_fresh = False\n'
    write = 'import os, pathlib\npathlib.Path(os.environ["G2E_RESULTS"], "out{}.txt").write_text(str({}))'
    notebook(tmp_path / "notebooks" / "00_first.ipynb", head + "seed = 0  # number", write.format(0, "seed"))
    notebook(
        tmp_path / "notebooks" / "01_second.ipynb",
        head + "steps = 5\nrate = 0.1\nseed = 0",
        write.format(1, "(steps, rate, seed)"),
    )
    monkeypatch.setenv("G2E_RESULTS", "")  # restored after the test, whatever run() sets
    monkeypatch.setenv("G2E_FIGURES", "")
    return tmp_path


def test_profile_and_command_line_parameters_arrive(project, capsys):
    assert run.main(["-p", "rate", "2", "-p", "seed", "3"]) == 0
    assert (project / "results/mini/out0.txt").read_text() == "3"
    assert (project / "results/mini/out1.txt").read_text() == "(7, 2.0, 3)"
    record = json.loads((project / "results/mini/provenance.json").read_text())
    assert record["notebooks"]["01_second"]["parameters"]["rate"] == 2.0
    assert (project / "results/mini/notebooks/01_second.ipynb").exists()
    out = capsys.readouterr().out
    assert "[2/2] 01_second" in out
    assert "results/mini/" in out
    assert run.main(["--only", "00", "-p", "seed", "4"]) == 0  # the record keeps what the other notebook ran with
    record = json.loads((project / "results/mini/provenance.json").read_text())
    assert [one["parameters"]["seed"] for one in record["notebooks"].values()] == [4, 3]
    assert all(one["commit"] for one in record["notebooks"].values())
    assert not (project / ".staging" / "mini").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["-p", "sed", "3"],
            "unknown parameter 'sed'. The notebooks to run have: 00_first: seed; 01_second: steps, rate, seed",
        ),
        (["-p", "steps", "many"], "parameter steps takes a int such as 5, not 'many'"),
        (["-p", "steps", "1.5"], "parameter steps takes a int such as 5, not '1.5'"),
        (["--only", "00", "-p", "steps", "3"], "unknown parameter 'steps'. The notebooks to run have: 00_first: seed"),
        (["-p", "profile", "x"], "unknown parameter 'profile'"),
        (["--only", "7"], "profile mini has no notebook 7: choose one of 00, 01"),
        (["--profile", "maxi"], "unknown profile 'maxi': choose one of mini"),
    ],
)
def test_wrong_command_lines_end_before_anything_runs(project, capsys, arguments, message):
    assert run.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert not (project / "results").exists()


def test_a_failing_cell_is_named_and_old_results_stay(project, capsys):
    assert run.main([]) == 0
    head = 'profile = "mini"\nis_fresh = False\nsteps = 5'
    notebook(project / "notebooks" / "01_second.ipynb", head, "1 + 1", 'raise ValueError("no such image")')
    assert run.main(["-p", "seed", "9"]) == 1
    error = capsys.readouterr().err
    assert "notebook 01_second failed in cell" in error
    assert "ValueError: no such image" in error
    executed = project / ".staging/mini/results/notebooks/01_second.ipynb"
    assert str(executed) in error
    assert "no such image" in executed.read_text()
    assert (project / "results/mini/out0.txt").read_text() == "0"  # of the run that succeeded


def test_only_and_from_keep_the_other_results(project):
    assert run.main([]) == 0
    assert run.main(["--only", "1", "-p", "steps", "8"]) == 0
    assert (project / "results/mini/out0.txt").read_text() == "0"
    assert (project / "results/mini/out1.txt").read_text() == "(8, 0.1, 0)"
    assert run.main(["--from", "01"]) == 0
    assert (project / "results/mini/out1.txt").read_text() == "(7, 0.1, 0)"


@pytest.mark.parametrize("killed_at", ["results", "figures"])
def test_results_survive_a_kill_while_new_ones_take_their_place(project, monkeypatch, killed_at):
    assert run.main([]) == 0
    move = run.shutil.move

    def killed(source, target):
        if source.name == killed_at:
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(run.shutil, "move", killed)
    with pytest.raises(KeyboardInterrupt):
        run.main(["--only", "01", "-p", "steps", "8"])
    monkeypatch.setattr(run.shutil, "move", move)
    assert run.main(["--only", "01", "-p", "steps", "8"]) == 0
    assert (project / "results/mini/out0.txt").read_text() == "0"  # of the notebook that did not run again
    assert (project / "results/mini/out1.txt").read_text() == "(8, 0.1, 0)"
    assert not [path for path in (project / ".staging").rglob("*") if path.is_file()]


def test_list_names_notebooks_parameters_and_profiles(project, capsys):
    assert run.main(["--list"]) == 0
    out = capsys.readouterr().out
    assert "00_first" in out
    assert "-p steps 5" in out
    assert "profiles: mini" in out


def test_executed_copies_do_not_change_from_run_to_run(project):
    contents = []
    for _ in range(2):
        assert run.main([]) == 0
        contents.append((project / "results/mini/notebooks/01_second.ipynb").read_bytes())
    assert contents[0] == contents[1]
