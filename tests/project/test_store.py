import json

import numpy as np
import pytest

from g2e_lib.project.store import Store, atomic_path, read_json, write_json


def test_computes_once_and_returns_the_same(tmp_path):
    calls = []
    store = Store(tmp_path)
    for _ in range(2):
        array = store.array({"a": 1}, lambda: calls.append(1) or np.arange(6.0).reshape(2, 3))
        np.testing.assert_array_equal(array, [[0, 1, 2], [3, 4, 5]])
    assert len(calls) == 1


def test_another_key_is_another_entry(tmp_path):
    store = Store(tmp_path)
    assert store.array({"prompt": "none"}, lambda: np.zeros(1))[0] == 0
    assert store.array({"prompt": "user"}, lambda: np.ones(1))[0] == 1


def test_fresh_ignores_old_entries_but_not_its_own(tmp_path):
    Store(tmp_path).array({"a": 1}, lambda: np.zeros(1))
    fresh = Store(tmp_path, is_fresh=True)
    assert fresh.array({"a": 1}, lambda: np.ones(1))[0] == 1
    assert fresh.array({"a": 1}, lambda: np.full(1, 2.0))[0] == 1
    assert Store(tmp_path).array({"a": 1}, lambda: np.full(1, 2.0))[0] == 1


def test_a_damaged_entry_is_computed_again(tmp_path):
    store = Store(tmp_path)
    store.array({"a": 1}, lambda: np.zeros(1))
    store.path({"a": 1}).write_bytes(b"half a file")
    assert store.array({"a": 1}, lambda: np.ones(1))[0] == 1


def test_a_failure_leaves_nothing_behind(tmp_path):
    def fail():
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        Store(tmp_path).array({"a": 1}, fail)
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "x.json") as partial:
        partial.write_text("half")
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_old_file(tmp_path):
    write_json(tmp_path / "x.json", {"old": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {"new": object()})
    assert json.loads((tmp_path / "x.json").read_text()) == {"old": 1}


def test_missing_and_broken_json_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="setup.json does not exist: run notebook 00_setup first"):
        read_json(tmp_path / "setup.json", made_by="notebook 00_setup")
    (tmp_path / "setup.json").write_text("{")
    with pytest.raises(ValueError, match="setup.json is not valid JSON .* delete it and run notebook 00_setup again"):
        read_json(tmp_path / "setup.json", made_by="notebook 00_setup")


def test_json_values_are_stored_like_arrays(tmp_path):
    calls = []
    for fresh in (False, False, True):
        store = Store(tmp_path, is_fresh=fresh)
        assert store.json({"a": 1}, lambda: calls.append(1) or {"x": (1, 2)}) == {"x": [1, 2]}
    assert len(calls) == 2
    store.path({"a": 1}, ".json").write_text("{")
    assert Store(tmp_path).json({"a": 1}, lambda: 7) == 7
