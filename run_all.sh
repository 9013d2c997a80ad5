#!/usr/bin/env bash
# Run every notebook in order, or the tests, in an environment that has the tested versions.
#   ./run_all.sh                 all notebooks, profile mini, into results/mini and figures/mini
#   ./run_all.sh --as NAME -p .. a variant with other parameters, beside its base
#   ./run_all.sh compare A B     what differs between two runs
#   ./run_all.sh publish NAME    make a run the reference that is in git
#   ./run_all.sh test [--quick]  the test suite, or what of it takes a minute; then pytest's own arguments
#   ./run_all.sh --list, --help  everything that can be set; everything else
# Uses the active Python if it satisfies constraints.txt, else conda or mamba, else makes .venv with pip.
# G2E_INSTALL=never stops with a message instead of installing anything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

ENV_NAME=g2e

# Does this Python have every package of pyproject.toml at the version of constraints.txt, and g2e_lib from here?
satisfies_pins() {
    "$1" - <<'PYTHON' 2>/dev/null
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

def normal(name):
    return name.lower().replace("_", "-")

lines = (line.split("#")[0].strip() for line in Path("constraints.txt").read_text().splitlines())
pins = dict(map(str.strip, line.split("==")) for line in lines if line)
pins = {normal(name): pin for name, pin in pins.items()}
project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
needed = project["dependencies"] + project["optional-dependencies"]["dev"]
# A CPU build of torch calls itself 2.13.0+cpu: the part after "+" is not part of the pin.
wrong = [name for name in map(normal, needed) if version(name).split("+")[0] != pins[name]]
import g2e_lib
same_place = Path(g2e_lib.__file__).resolve().parents[1] == Path.cwd().resolve()
sys.exit(bool(wrong) or not same_place)
PYTHON
}

# On Linux, PyPI's torch brings gigabytes of CUDA; without a GPU take the CPU build where it can be reached.
prefer_cpu_torch() {
    if [ "$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && [ -z "${PIP_EXTRA_INDEX_URL:-}" ] &&
        curl -sfI --max-time 5 https://download.pytorch.org/whl/cpu/torch/ >/dev/null 2>&1; then
        export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
    fi
}

find_python() {
    for candidate in python python3 .venv/bin/python; do
        if command -v "$candidate" >/dev/null && satisfies_pins "$candidate"; then
            PYTHON=$(command -v "$candidate")
            return
        fi
    done
    if [ "${G2E_INSTALL:-}" = never ]; then
        echo "run_all.sh: no Python here has the versions in constraints.txt, and G2E_INSTALL=never forbids installing" >&2
        exit 1
    fi
    prefer_cpu_torch
    for conda in mamba conda; do
        if command -v "$conda" >/dev/null; then
            folder=$("$conda" env list | awk -v name="$ENV_NAME" '$1 == name {print $NF}')
            if [ -n "$folder" ] && satisfies_pins "$folder/bin/python"; then
                PYTHON=$folder/bin/python
                return
            elif [ -n "$folder" ]; then
                "$conda" env update -n "$ENV_NAME" -f environment.yml
            else
                "$conda" env create -n "$ENV_NAME" -f environment.yml
            fi
            PYTHON=$("$conda" run -n "$ENV_NAME" python -c "import sys; print(sys.executable)")
            return
        fi
    done
    for candidate in python3.11 python3.12 python3.13 python3 python; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))"; then
            echo "run_all.sh: making .venv with $("$candidate" --version); this downloads the packages once"
            "$candidate" -m venv .venv
            .venv/bin/python -m pip install --quiet --upgrade pip
            .venv/bin/python -m pip install --quiet -c constraints.txt -e ".[dev]"
            PYTHON=.venv/bin/python
            return
        fi
    done
    echo "run_all.sh: found no Python 3.11 to 3.13 and no conda: install one of them first" >&2
    exit 1
}

find_python
case "$PYTHON" in /*) ;; *) PYTHON=$PWD/$PYTHON ;; esac
# The notebooks' kernel "python3" must be this very Python, whatever kernels are installed elsewhere.
PATH="$(dirname "$PYTHON"):$PATH"
export PATH JUPYTER_PREFER_ENV_PATH=1
if [ "${1:-}" = test ]; then
    shift
    if [ "${1:-}" = --quick ]; then
        shift
        set -- -m "not slow and not notebooks" "$@"
    fi
    # Side by side on up to four cores, a file's tests on one of them.
    exec "$PYTHON" -m pytest -n auto --maxprocesses 4 --dist loadfile "$@"
fi
exec "$PYTHON" -m g2e_lib run "$@"
