"""The profile evening, killed at five random moments and started again, against a run that nobody disturbed.

Notebooks 00 to 03 run on a slice of the stand-in's data. Undisturbed they run under one command. The other project
runs a notebook a command: each is killed once, one of them twice, at a moment drawn over the time that the notebook
took undisturbed. Kills during one command for all would say no more, but every start repeats the notebooks before.
"""

import csv
import io
import json
import os
import random
import subprocess
from collections import Counter

import psutil
import pytest
from conftest import SHARED
from standin import Hub, Project, build_models

from g2e_lib.project import config
from g2e_lib.project import runner as run

pytestmark = pytest.mark.notebooks

PROFILE = "evening"  # its notebooks are the first four of the larger profiles
SLICE = {
    "datasets": ["MSCOCO_i2t", "VOC2007"],
    "subsets": ["MSCOCO_t2i", "VOC2007"],
    "prompts": ["none", "hierarchical"],
    "gap_prompts": ["none", "hierarchical"],
    "gap_pairs": 4,
    "attention_pairs": 2,
    "miners": ["topk", "saha"],
    "top_k": 3,
    "shown_row": 0,
    "steps": 3,
    "warmup_steps": 0,
    "pairs_per_step": 4,
    "dtype": "float32",
}
NUMBERS = ("00", "01", "02", "03")
# What is measured, not computed, differs between any two runs: columns of tables, and keys of metrics.
MEASURED_COLUMNS = {"miners": ["seconds"], "training_cost": ["seconds", "pairs a second (median)", "peak memory (MiB)"]}
MEASURED_KEYS = {"seconds", "pairs_per_second", "peak_memory_mib"}


def make_project(root, hub):
    """A project whose profile has notebooks 00 to 03 and the slice."""
    settings = {}
    for notebook in run.notebooks_of(PROFILE)[: len(NUMBERS)]:
        known = run.parameter_defaults(notebook)
        sliced = {name: value for name, value in SLICE.items() if name in known}
        settings[notebook.stem] = config.load_profile(PROFILE)[notebook.stem] | sliced
    assert [stem[:2] for stem in settings] == list(NUMBERS)
    return Project(root, hub, PROFILE, settings)


@pytest.fixture(scope="module")
def project_hub(hub_folder):
    """The stand-in with models."""
    build_models(hub_folder, SHARED / "qwen2_tokenizer")
    one = Hub(hub_folder)
    yield one
    one.close()


@pytest.fixture(scope="module")
def undisturbed(project_hub, tmp_path_factory):
    one = make_project(tmp_path_factory.mktemp("undisturbed"), project_hub)
    done = one.run(check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return one


def kill(process):
    """SIGKILL for a command and all it has started: a kernel has a session of its own, which no killpg reaches."""
    command = psutil.Process(process.pid)
    command.suspend()  # it starts nothing more
    everyone = [*command.children(recursive=True), command]
    for one in everyone:
        one.kill()
    process.wait()
    _, alive = psutil.wait_procs(everyone, timeout=30)
    assert not alive
    return len(everyone)


def start_and_kill(project, number, seconds):
    """Kill a notebook so long after it began; returns how many processes died, 0 if it had ended before."""
    process = subprocess.Popen(
        project.command("--only", number),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=project.environment, cwd=project.root,
    )  # fmt: skip
    with process:
        for line in process.stdout:
            if line.startswith("[1/1]"):
                break
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return kill(process)
    assert process.returncode == 0, output
    return 0


def without_measured(value):
    """Metrics without what is measured."""
    if isinstance(value, dict):
        return {key: without_measured(one) for key, one in value.items() if key not in MEASURED_KEYS}
    return [without_measured(one) for one in value] if isinstance(value, list) else value


def computed(project):
    """All tables and metrics, without what is measured, by file name."""
    found = {}
    for name, content in project.tables().items():
        stem, suffix = name.rsplit(".", 1)
        if stem not in MEASURED_COLUMNS:
            found[name] = content
        elif suffix == "csv":  # its other formats say the same
            rows = list(csv.DictReader(io.StringIO(content.decode())))
            assert set(MEASURED_COLUMNS[stem]) < set(rows[0])
            found[name] = [{k: v for k, v in row.items() if k not in MEASURED_COLUMNS[stem]} for row in rows]
    for path in (project.results / "metrics").iterdir():
        found[path.name] = without_measured(json.loads(path.read_text()))
    for path in (project.results / "clusters").iterdir():
        found[path.name] = path.read_bytes()
    return found


def test_five_kills_change_nothing(undisturbed, project_hub, tmp_path):
    seed = int(os.environ.get("G2E_KILL_SEED", random.randrange(10**6)))
    draw, project, moments = random.Random(seed), make_project(tmp_path, project_hub), []
    record = json.loads((undisturbed.results / "provenance.json").read_text())["notebooks"]
    seconds = {stem[:2]: one["seconds"] for stem, one in record.items()}
    kills = Counter([*NUMBERS, draw.choice(NUMBERS)])
    for number in NUMBERS:
        while kills[number]:
            moment = draw.random() * seconds[number]
            if died := start_and_kill(project, number, moment):
                kills[number] -= 1
                moments.append(f"{number} after {moment:.1f} of {seconds[number]} s ({died} processes)")
            else:  # it was quicker than the undisturbed one, and is done once more
                seconds[number] *= 0.8
        done = project.run("--only", number, check=False)
        assert done.returncode == 0, f"G2E_KILL_SEED={seed} {moments}\n{done.stdout}{done.stderr}"
    theirs, ours = computed(undisturbed), computed(project)
    told = f"G2E_KILL_SEED={seed} {moments}"
    assert ours.keys() == theirs.keys(), told
    assert [name for name in ours if ours[name] != theirs[name]] == [], told
    assert not list(project.results.rglob(".*")), told
