"""The profile qwen2-vl-2b against a stand-in for the hub: all subsets of MMEB, a tiny Qwen2-VL in its released form."""

import json

import pytest
from standin import Project

pytestmark = pytest.mark.notebooks

SMALLER = ["-p", "prompts", "[none, hierarchical, unime]", "-p", "gap_prompts", "[none, hierarchical]"]
SMALLER += ["-p", "steps", "2", "-p", "warmup_steps", "0", "-p", "pairs_per_step", "4"]
SMALLER += ["-p", "gap_pairs", "4", "-p", "top_k", "3", "-p", "dtype", "float32", "-p", "shown_row", "0"]


def parameters_of(number, project):
    """Those of SMALLER that the notebook has."""
    from g2e_lib.run import parameter_defaults, select_notebooks

    known = parameter_defaults(select_notebooks(None, number)[0])
    pairs = zip(SMALLER[1::3], SMALLER[2::3], strict=True)
    return [word for name, value in pairs if name in known for word in ("-p", name, value)]


@pytest.fixture(scope="module")
def project(project_hub, tmp_path_factory):
    one = Project(tmp_path_factory.mktemp("real"), project_hub)
    for number in ("00", "01", "02", "03"):
        done = one.run("--only", number, *parameters_of(number, one), check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return one


def test_every_dataset_and_subset_takes_part(project):
    metrics = project.results / "metrics"
    zero_shot = json.loads((metrics / "zero_shot.json").read_text())
    assert len(zero_shot["datasets"]) == 36
    assert zero_shot["provenance"]["settings"]["images"] == "paper_eval"
    mining = json.loads((metrics / "mining.json").read_text())
    assert len(mining["miners"]["saha"]["subsets"]) == 20
    training = json.loads((metrics / "training.json").read_text())
    assert training["provenance"]["settings"]["image_rule"] == "paper_train"
    assert {len(log) for arm in training["arms"].values() for log in arm["log"]} == {2}
    assert json.loads((metrics / "setup.json").read_text())["benchmark"]["world"] == "mmeb"


def test_without_a_network_nothing_changes(project, project_hub):
    tables, asked = project.tables(), len(project_hub.requests)
    for number in ("00", "02"):
        done = project.run("--only", number, *parameters_of(number, project), check=False, HF_HUB_OFFLINE="1")
        assert done.returncode == 0, done.stdout + done.stderr
    assert project.tables() == tables
    assert len(project_hub.requests) == asked


def test_nothing_names_this_machine(project):
    for path in (project.root / "results").rglob("*"):
        if path.is_file():
            assert str(project.root) not in path.read_text(errors="ignore"), path
