import subprocess

import pytest

from g2e_lib.project import config


def test_fingerprint_sees_every_change_and_no_order():
    one = {"model": "a", "size": [1, 2]}
    assert config.fingerprint(one) == config.fingerprint({"size": [1, 2], "model": "a"})
    assert config.fingerprint(one) != config.fingerprint({"model": "a", "size": [2, 1]})
    assert config.fingerprint(1) != config.fingerprint("1")


def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch):
    path, read = tmp_path / "file", []
    digest = config.hashlib.file_digest
    monkeypatch.setattr(config.hashlib, "file_digest", lambda *given: read.append(1) or digest(*given))
    path.write_bytes(b"one")
    first = config.file_digest(path)
    assert config.file_digest(path) == first
    assert len(read) == 1
    path.write_bytes(b"two")  # as long as before
    assert config.file_digest(path) != first


def test_file_digest_is_sha256_also_through_the_hub_cache(tmp_path):
    expected = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"  # of "hello", from sha256sum
    (tmp_path / "file").write_text("hello")
    assert config.file_digest(tmp_path / "file") == expected
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "abc").write_text("hello")
    (tmp_path / "link").symlink_to(tmp_path / "blobs" / "abc")
    assert config.file_digest(tmp_path / "link") == "abc"


def test_unknown_profile_lists_the_known():
    with pytest.raises(ValueError, match="unknown profile 'maxi': choose one of evening, mini, qwen2-vl-2b, .*, smoke"):
        config.load_profile("maxi")


def test_embedded_model_resolves_to_its_folder():
    assert (config.PACKAGE / "glyphworld" / "base_model").samefile(config.resolve_model("glyphworld-base"))
    assert config.resolve_model("Qwen/Qwen2-VL-2B-Instruct") == "Qwen/Qwen2-VL-2B-Instruct"


def test_commit_is_marked_when_sources_differ(tmp_path, monkeypatch):
    def git(*arguments):
        subprocess.run(["git", "-C", tmp_path, *arguments], check=True, capture_output=True)

    monkeypatch.setattr(config, "ROOT", tmp_path)
    assert config.git_commit() == "unknown"
    git("init")
    (tmp_path / "code.py").write_text("1")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.csv").write_text("1")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e@x", "commit", "-m", "one")
    (tmp_path / "results" / "table.csv").write_text("2")
    assert len(config.git_commit()) == 40
    (tmp_path / "code.py").write_text("2")
    assert config.git_commit().endswith("+")


@pytest.fixture
def profiles(tmp_path, monkeypatch):
    """Writes profiles, by name, over two notebooks."""
    monkeypatch.setattr(config, "NOTEBOOKS", tmp_path)
    monkeypatch.setattr(config, "PROFILES", tmp_path)
    for stem in ("00_a", "01_b"):
        (tmp_path / f"{stem}.ipynb").touch()
    return lambda **texts: [(tmp_path / f"{name}.yaml").write_text(text) for name, text in texts.items()]


KNOWN = {"00_a": {"model": "", "seed": 0}, "01_b": {"model": "", "steps": 1}}


def test_a_notebooks_own_block_wins_over_common_and_both_over_what_is_extended(profiles):
    profiles(
        low="common: {model: x, steps: 5}\n01_b: {model: y}\n",
        high="extends: low\ncommon: {steps: 6}\n00_a: {seed: 3}\n",
        top="extends: high\ncommon: {model: z}\n01_b: {steps: 7}\nnotebooks: [01_b]\n",
        empty="# nothing\n",
    )
    assert config.load_profile("low", KNOWN) == {"00_a": {"model": "x"}, "01_b": {"model": "y", "steps": 5}}
    assert config.load_profile("high", KNOWN) == {"00_a": {"model": "x", "seed": 3}, "01_b": {"model": "y", "steps": 6}}
    assert config.load_profile("top", KNOWN) == {"01_b": {"model": "z", "steps": 7}}
    assert config.load_profile("empty", KNOWN) == {"00_a": {}, "01_b": {}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: p\n", "extends itself"),
        ("extends: q\n", "unknown profile 'q'"),
        ("02_c: {}\n", "names ['02_c'], which are no notebooks"),
        ("common: {stepz: 1}\n", "no notebook knows: common: stepz"),
        ("00_a: {steps: 1}\n", "no notebook knows: 00_a: steps"),
    ],
)
def test_a_faulty_profile_is_told(profiles, text, message):
    profiles(p=text)
    with pytest.raises(ValueError, match=".*") as error:
        config.load_profile("p", KNOWN)
    assert message in str(error.value)


def test_larger_profiles_say_only_how_they_differ():
    two, seven = (config.load_profile(f"qwen2-vl-{size}b", None) for size in (2, 7))
    changed = {key for stem, values in two.items() for key, value in values.items() if seven[stem][key] != value}
    assert changed == {"model", "tokens_per_batch"}
    assert len((config.PROFILES / "qwen2-vl-7b.yaml").read_text().splitlines()) <= 6
