"""The benchmark of the papers' own scale runs reduced on any machine, and writes only where it is told."""

import json
import subprocess
import sys

from g2e_lib.project import config


def test_the_reduced_run(tmp_path):
    command = [sys.executable, str(config.ROOT / "benchmarks" / "h200.py"), "--reduced"]
    before = sorted(path.name for path in (config.ROOT / "benchmarks").iterdir())
    environment = {**__import__("os").environ, "PYTHONPATH": str(config.ROOT), "OMP_NUM_THREADS": "1"}
    output = tmp_path / "out" / "h200.json"
    done = subprocess.run(
        [*command, "--output", str(output)], capture_output=True, text=True, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(output.read_text())
    assert result == json.loads(done.stdout)
    assert result["is_reduced"]
    assert set(result["embedding"]) == {"text", "image", "mix"}
    assert set(result["training"]) == {"4 pairs", "8 pairs"}
    for one in (*result["embedding"].values(), *result["training"].values()):
        assert all(value > 0 for name, value in one.items() if value is not None and "utilisation" not in name)
    assert result["mining"]["clusters"] > 0
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [output]
    after = sorted(path.name for path in (config.ROOT / "benchmarks").iterdir() if path.name != "__pycache__")
    assert after == [name for name in before if name != "__pycache__"]
