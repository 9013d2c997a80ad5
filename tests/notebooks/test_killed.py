"""The profile evening, killed at five moments and started again, against a run that nobody disturbed.

Notebooks 00 to 03 run on a slice of the stand-in's data: undisturbed under one command; and under one that is killed
once in each notebook, and once more in one of them, and started again each time. Moments are drawn over the time that
the notebook took undisturbed, with a fixed seed; G2E_KILL_SEED draws others. Notebooks run without kernels, which would
take most of the time, but for the last kill.
"""

import csv
import io
import json
import os
import random
import subprocess

import psutil
import pytest
from standin import Project, profile_settings

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
    "shown_top_k": 2,
    "steps": 3,
    "warmup_steps": 0,
    "pairs_per_step": 4,
    "limit": 8,
    "train_limit": 12,
    "dtype": "float32",
}
NOTEBOOKS = ["00_setup", "01_zero_shot", "02_mining", "03_training"]
NO_KERNEL = {"G2E_TEST_KERNEL": "no"}
# What is measured, not computed, differs between any two runs: columns of tables, and keys of metrics.
MEASURED_COLUMNS = {"miners": ["seconds"], "training_cost": ["seconds", "pairs a second (median)", "peak memory (MiB)"]}
MEASURED_KEYS = {"seconds", "pairs_per_second", "peak_memory_mib"}


def make_project(root, hub, known):
    """A project whose profile has notebooks 00 to 03 and the slice."""
    settings = profile_settings(PROFILE)
    sliced = {stem: {name: value for name, value in SLICE.items() if name in known[stem]} for stem in NOTEBOOKS}
    return Project(root, hub, PROFILE, {stem: settings[stem] | sliced[stem] for stem in NOTEBOOKS})


@pytest.fixture(scope="module")
def known():
    from g2e_lib.__main__ import setting_defaults
    from g2e_lib.project.notebooks import known_settings

    return known_settings(setting_defaults())


@pytest.fixture(scope="module")
def undisturbed(notebook_hub, known, tmp_path_factory):
    project = make_project(tmp_path_factory.mktemp("undisturbed"), notebook_hub, known)
    project.run(**NO_KERNEL)
    return project


def kill(process):
    """SIGKILL for a command and all it has started: a kernel has a session of its own, which no killpg reaches."""
    command = psutil.Process(process.pid)
    command.suspend()  # it starts nothing more
    everyone = [*command.children(recursive=True), command]
    for member in everyone:
        member.kill()
    process.wait()
    _, alive = psutil.wait_procs(everyone, timeout=30)
    assert not alive
    return len(everyone)


def start_and_kill(project, notebook, seconds, environment):
    """Kill a command so long after one of its notebooks began; how many processes died, 0 if it had ended before."""
    process = subprocess.Popen(
        project.command(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=project.root,
    )  # fmt: skip
    with process:
        printed = ""
        for line in process.stdout:
            printed += line
            if line.startswith("[") and f"] {notebook}" in line:
                break
        try:
            rest, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            return kill(process)
    assert process.returncode == 0, printed + rest
    return 0


def without_measured(value):
    """Metrics without what is measured."""
    if isinstance(value, dict):
        return {key: without_measured(inner) for key, inner in value.items() if key not in MEASURED_KEYS}
    return [without_measured(inner) for inner in value] if isinstance(value, list) else value


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


def test_five_kills_change_nothing(undisturbed, notebook_hub, known, tmp_path):
    seed = int(os.environ.get("G2E_KILL_SEED", "0"))
    draw, project, moments = random.Random(seed), make_project(tmp_path, notebook_hub, known), []
    seconds = {stem: facts["seconds"] for stem, facts in undisturbed.record()["notebooks"].items()}
    order = sorted([*NOTEBOOKS, draw.choice(NOTEBOOKS)])
    for number, stem in enumerate(order, 1):
        environment = project.environment | ({} if number == len(order) else NO_KERNEL)
        moment = draw.random() * seconds[stem]
        while not (died := start_and_kill(project, stem, moment, environment)):
            moment *= 0.5  # it was quicker than the undisturbed one; what it left is recomputed from its caches
        moments.append(f"{stem} after {moment:.1f} of {seconds[stem]} s ({died} processes)")
    project.run(**NO_KERNEL)
    told = f"G2E_KILL_SEED={seed} {moments}"
    theirs, ours = computed(undisturbed), computed(project)
    assert ours.keys() == theirs.keys(), told
    assert [name for name in ours if ours[name] != theirs[name]] == [], told
    assert not list(project.results.rglob(".*")), told
