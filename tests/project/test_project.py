"""The project's own rules: imports, notebooks, versions, and what the README promises."""

import ast
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

import g2e_lib
from g2e_lib.__main__ import setting_defaults
from g2e_lib.project import command, config, notebooks

SOURCES = sorted(config.PACKAGE.rglob("*.py"))
NOTEBOOKS = notebooks.notebook_paths()
MOST_PARAMETERS = 15  # of a notebook: those a reader would turn
README = (config.ROOT / "README.md").read_text(encoding="utf-8")


def imported(path):
    """The modules of this package a file imports, without the package's name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("g2e_lib"):
            module = node.module.removeprefix("g2e_lib").strip(".")
            for alias in node.names:  # a module, or a name in one
                whole = f"{module}.{alias.name}".strip(".")
                is_module = (config.PACKAGE / f"{whole.replace('.', '/')}.py").is_file()
                names.add(whole if is_module else module)
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("g2e_lib.") for a in node.names if a.name.startswith("g2e_lib.")}
    return names - {""}  # the package itself has its version only


# A folder of the package, or the method's own modules at its top, may import what stands before it.
LAYERS = ["project", "data", "backbone", "method", "evaluation", "glyphworld", "scale", "experiments"]
PURE = {"prompts", "saha", "miners", "gradcache", "unime"}  # no models, no files; they may search


def layer(module):
    """The folder a module lies in, "method" at the top level."""
    return module.partition(".")[0] if "." in module or module in (*LAYERS, "report") else "method"


GRAPH = {
    ".".join(path.relative_to(config.PACKAGE).with_suffix("").parts): imported(path)
    for path in SOURCES
    if path.name not in ("__init__.py", "__main__.py")
}


@pytest.mark.parametrize(
    "module",
    [name for name in GRAPH if layer(name) in ("report", "project")]
    + [
        "__main__",
        "prompts",
        "saha",
        "miners",
        "train_config",
        "experiments.settings",
        "data.items",
        "data.mmeb",
        "data.fetch",
        "scale.costs",
    ],
)
def test_imports_without_torch(module):
    code = f"import sys, g2e_lib.{module}; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_folders_import_one_way():
    for module, others in GRAPH.items():
        ours = layer(module)
        allowed = {"project", "report"} if ours == "report" else set(LAYERS[: LAYERS.index(ours) + 1])
        assert {layer(other) for other in others} <= allowed, module
    for module in PURE:
        assert GRAPH[module] <= {*PURE, "backbone.nearest"}, module


def test_no_circle_of_imports():
    finished: set[str] = set()

    def visit(module, path=()):
        assert module not in path, f"imports run in a circle: {path}"
        if module not in finished:
            for other in GRAPH.get(module, ()):
                visit(other, (*path, module))
            finished.add(module)

    for module in GRAPH:
        visit(module)


def test_nothing_unsafe():
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"trust_remote_code|\bpickle\b(?!s)|torch\.load\(", text), path


def test_modules_stay_readable():
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 65, f"{path.name}: {node.name}"


def test_one_version():
    citation = yaml.safe_load((config.ROOT / "CITATION.cff").read_text())
    assert citation["version"] == g2e_lib.__version__
    assert f"## [{g2e_lib.__version__}]" in (config.ROOT / "CHANGELOG.md").read_text()


def test_one_list_of_dependencies():
    environment = yaml.safe_load((config.ROOT / "environment.yml").read_text())
    pip = environment["dependencies"][-1]["pip"]
    assert pip == ["-c constraints.txt", "-e .[dev]"]
    pins = (config.ROOT / "constraints.txt").read_text()
    assert "torch==2.13.0" in pins
    assert all("==" in line for line in pins.splitlines() if line and not line.startswith("#"))


# --- notebooks -----------------------------------------------------------------------------------------------------


def source_cells(path):
    """A notebook's cells, and which of them holds the parameters."""
    cells = nbformat.read(path, as_version=4).cells
    (parameters,) = (cell for cell in cells if "parameters" in cell.metadata.get("tags", []))
    return cells, parameters


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_source_notebooks_keep_the_form(path):
    cells, parameters = source_cells(path)
    code = [cell for cell in cells if cell.cell_type == "code"]
    for cell in code:
        assert not cell.outputs
        assert cell.execution_count is None
        assert len(cell.source.splitlines()) <= 15, cell.source
        assert not re.search(r"^\s*class\b|^[%!]|sys\.path|os\.environ", cell.source, re.MULTILINE)
    lines = sorted(sum(bool(line.strip()) for line in c.source.splitlines()) for c in code if c is not parameters)
    assert lines[len(lines) // 2] <= 8
    assert cells[0].source.startswith("# ")
    assert cells[0].source.splitlines()[0].rstrip(")").count("?") == 1


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_few_commented_literals_and_used(path):
    cells, parameters = source_cells(path)
    rest = "\n".join(c.source for c in cells if c.cell_type == "code" and c is not parameters)
    tree, settings = ast.parse(parameters.source), setting_defaults().get(path.stem, {})
    taken = set(settings) if ".from_cell(results, globals())" in rest else set()
    for line, node in zip(parameters.source.splitlines(), tree.body, strict=True):
        ast.literal_eval(node.value)
        assert "  # " in line, line
        name = node.targets[0].id
        assert name in taken or re.search(rf"\b{name}\b", rest), f"{name} is never used"
    names = list(notebooks.cell_parameters(path))
    assert names[0] == notebooks.RUN_PARAMETER
    assert len(names) <= MOST_PARAMETERS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_show_the_defaults_of_the_settings(path):
    """A setting is defined once: what a cell shows is what a run without it would take."""
    shown = {name: v for name, v in notebooks.cell_parameters(path).items() if name != notebooks.RUN_PARAMETER}
    defaults = setting_defaults().get(path.stem, {})
    assert shown == {name: defaults[name] for name in shown}


@pytest.mark.parametrize("profile", config.profile_names())
def test_profiles_name_real_notebooks_and_settings(profile):
    defaults = setting_defaults()
    for stem, values in config.load_profile(profile, notebooks.known_settings(defaults)).items():
        for name, value in values.items():
            assert type(value) is type(defaults[stem][name]), f"{stem}: {name}"


def test_defaults_are_the_mini_profile():
    assert config.load_profile("mini") == {path.stem: {} for path in NOTEBOOKS}


# --- what the README promises --------------------------------------------------------------------------------------


def test_paths_in_the_readme_exist():
    linked = re.findall(r"\]\((?!http|#)([^)]+)\)", README)
    assert linked
    for path in linked:
        assert (config.ROOT / path).exists(), path


def test_commands_in_the_readme_parse():
    commands = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    assert commands
    for block in commands:
        subprocess.run(["bash", "-n", "-c", block], check=True)
        for flag in re.findall(r"run_all\.sh.*?(--\w+)", block):
            assert flag in command.parser().format_help()
        for name in re.findall(r"-p (\w+)", block):
            assert any(name in known for known in notebooks.known_settings(setting_defaults()).values()), name


def test_scripts_parse():
    for script in ("run_all.sh", ".ci/run"):
        subprocess.run(["bash", "-n", config.ROOT / script], check=True)


def test_python_in_the_readme_runs():
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), {})
