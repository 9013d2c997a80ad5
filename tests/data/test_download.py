"""The papers' data from a server on this machine, through the code that fetches the real ones."""

import shutil
import stat
import zipfile
from collections import namedtuple
from dataclasses import replace

import pytest
from standin import COMMIT

from g2e_lib.data import archives, download, fetch
from g2e_lib.data.download import MMEB_EVAL, MMEB_TRAIN, Selection, repair, take_inventory, verify
from g2e_lib.data.mmeb import read_mmeb_eval, read_mmeb_train

FEW = Selection(datasets=("ImageNet-1K", "CIRR"), subsets=("ImageNet_1K", "CIRR"), parts=("training",))


@pytest.fixture(scope="module")
def complete(hub_folder, tmp_path_factory):
    """Everything, downloaded once."""
    from standin import Hub

    root, hub = tmp_path_factory.mktemp("data"), Hub(hub_folder)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in hub.environment().items():
            patch.setenv(name, value)
        assert download.download(root, Selection()).is_complete
    hub.close()
    return root


def test_everything_arrives_and_is_read_by_mmebs_reader(complete):
    assert len(list((complete / "eval").glob("*/test-*.parquet"))) == 36
    assert len(list((complete / "train").glob("*/*-00001-of-00002.parquet"))) == 20
    row = read_mmeb_eval(complete / "eval", "CIRR", complete / "eval_images")[0]
    assert row.query.image.is_file()
    assert all(item.image.is_file() for item in row.candidates)
    pairs = read_mmeb_train(complete / "train", "ImageNet_1K", complete, "diverse_instruction")
    assert len(pairs) == 12
    assert all(pair.query.image.is_file() for pair in pairs)
    found = verify(complete, Selection())
    assert len(found) == 36 + 20 + 7 + 5 + 1
    assert not any(one["missing"] or one["broken"] for one in found.values())
    captions = list(fetch.read_note(complete / "urban1k" / "captions.json"))
    assert captions == sorted(captions)  # the order of rows does not depend on that of a set
    assert not [path for path in complete.rglob("._*")]
    assert not list(complete.rglob("*.zip"))  # extracted and deleted


def test_what_is_there_is_not_asked_for_again(complete, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download.download(complete, Selection()).is_complete
    assert hub.requests == []


def test_the_commit_is_noted_and_kept(complete, hub, tmp_path):
    noted = fetch.read_note(complete / download.SOURCES)
    assert noted[MMEB_EVAL] == {"revision": "main", "commit": COMMIT}
    shutil.copy(complete / download.SOURCES, tmp_path)
    download.bytes_to_bring(tmp_path, FEW)
    asked = {path for path in hub.requests if path.startswith("api/")}
    assert asked == {f"api/datasets/{name}/revision/{COMMIT}" for name in (MMEB_EVAL, MMEB_TRAIN)}
    with pytest.raises(ValueError, match="cannot get revision v2 of TIGER-Lab/MMEB-eval"):
        download.download(tmp_path, replace(FEW, eval_revision="v2"))


def test_offline_and_missing(tmp_path, hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="files of TIGER-Lab/MMEB-eval are missing and the network is switched off"):
        download.download(tmp_path, FEW)
    with pytest.raises(ValueError, match=r"replace_obj.json is missing and the network is switched off: unset"):
        download.download(tmp_path, Selection(("CIRR",), parts=("sugarcrepe",)))


def test_repair_brings_only_what_is_missing_or_broken(complete, hub, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(complete, root)
    images = take_inventory(root, FEW).images
    gone, broken = images["eval/CIRR"][0], images["train/CIRR"][0]
    expected = {name: (root / name).read_bytes() for name in (gone, broken)}
    (root / gone).unlink()
    (root / broken).write_bytes(b"<html>")
    found = verify(root, FEW)
    assert found["eval/CIRR"]["missing"] == [gone]
    assert list(found["train/CIRR"]["broken"]) == [broken]
    assert "is not an image file PIL can read" in found["train/CIRR"]["broken"][broken]
    untouched = {p: p.stat().st_mtime_ns for p in root.rglob("*.jpg") if p.name not in (gone, broken)}
    assert repair(root, FEW).is_complete
    assert {name: (root / name).read_bytes() for name in expected} == expected
    assert not [name for name in hub.requests if name.endswith("parquet")]
    assert sum(p.stat().st_mtime_ns != t for p, t in untouched.items() if str(p).endswith(broken)) <= 1
    assert not any(one["missing"] or one["broken"] for one in verify(root, FEW).values())


def test_images_that_no_archive_has_are_listed(complete, hub, tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    shutil.copytree(complete, root)
    path = take_inventory(root, FEW).images["eval/CIRR"][0]
    (root / path).unlink()
    monkeypatch.setattr(download, "unpack", lambda *_: 0)
    arguments = ["--root", str(root), "--datasets", "CIRR", "--parts"]
    assert download.main(["verify", *arguments]) == 1
    assert download.main(["download", *arguments]) == 1
    assert f"eval/CIRR: {path}\n1 images are missing or broken" in capsys.readouterr().out
    asked = len(hub.requests)
    assert download.download(root, Selection(("CIRR",), parts=())).missing == {"eval/CIRR": [path]}
    assert len(hub.requests) == asked  # no archive is fetched for it again, and no network is needed
    monkeypatch.undo()
    for name, value in hub.environment().items():
        monkeypatch.setenv(name, value)
    assert repair(root, Selection(("CIRR",), parts=())).is_complete  # asks again


def test_a_cut_download_goes_on(hub, hub_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch.time, "sleep", lambda _: None)
    url = download.CREPE.format(revision="main", name="add_obj")
    path = url.partition("://")[2]
    hub.cuts[path] = 100
    original = (hub_folder / path).read_bytes()
    assert fetch.fetch(url, tmp_path / "a.json").read_bytes() == original
    assert hub.requests == [path, path]
    (tmp_path / "b.json.part").write_bytes(b"of another version")
    (tmp_path / "b.json.part.tag").write_text('"old"')
    assert fetch.fetch(url, tmp_path / "b.json").read_bytes() == original
    assert not list(tmp_path.glob("*.part*"))


def test_what_cannot_be_fetched(hub, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"cannot download http://nowhere.org/a \(HTTP 404\): check the network"):
        fetch.fetch("http://nowhere.org/a", tmp_path / "a")
    with pytest.raises(ValueError, match=r"cannot get revision v9 of TIGER-Lab/MMEB-eval from the hub \(.*\): check"):
        fetch.HubFolder(MMEB_EVAL, "v9")


def test_no_network_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ValueError, match=r"cannot get revision main of TIGER-Lab/MMEB-eval from the hub \(.*\): check"):
        fetch.HubFolder(MMEB_EVAL, "main")


def test_a_damaged_file_of_the_hub(hub, tmp_path, monkeypatch):
    one = fetch.HubFolder(MMEB_EVAL, "main")
    name = "CIRR/test-00000-of-00001.parquet"
    one.digests[name] = "0" * 64
    with pytest.raises(ValueError, match="CIRR.* of TIGER-Lab/MMEB-eval arrived damaged and was deleted"):
        one.get([name], tmp_path)
    assert not (tmp_path / name).exists()


def test_too_small_a_disk(hub, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 10, 0)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"needs .* GB, but its disk has 0.0 GB free: free some, set G2E_CACHE"):
        download.download(tmp_path / "new", FEW)
    assert not list(tmp_path.rglob("*.parquet"))


def test_unknown_names():
    with pytest.raises(ValueError, match="MMEB has no dataset 'ImageNet_1K': choose among ImageNet-1K"):
        Selection(datasets=("ImageNet_1K",))
    with pytest.raises(ValueError, match="MMEB has no training subset 'ImageNet-1K': choose among ImageNet_1K"):
        Selection(subsets=("ImageNet-1K",))


# --- archives ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../evil.jpg", "/evil.jpg", "a/../../evil.jpg", "C:/evil.jpg"])
def test_no_member_leaves_the_target(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/fine.jpg", b"1")
        archive.writestr(name, b"2")
    with pytest.raises(ValueError, match="which leads out of it: do not use it"):
        archives.unpack(tmp_path / "a.zip", tmp_path / "target", ["a/fine.jpg", "evil.jpg"])
    assert not list(tmp_path.rglob("*.jpg"))


def test_no_links(tmp_path):
    link = zipfile.ZipInfo("a/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ValueError, match=r"has the link 'a/link.jpg': do not use it"):
        archives.unpack(tmp_path / "a.zip", tmp_path, ["a/link.jpg"])


def test_no_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jpg", bytes(10**7))
    with pytest.raises(ValueError, match="would grow from 0.000 to 0.010 GB, which no archive of images does"):
        archives.unpack(tmp_path / "a.zip", tmp_path, ["a.jpg"])


def test_a_damaged_archive(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="a.zip is damaged .*: delete it and download it again"):
        archives.unpack(tmp_path / "a.zip", tmp_path, ["a.jpg"])


def test_placement_needs_the_same_tree():
    assert archives.placement(["x/1.jpg"], ["y/1.jpg"]) == {}
    assert archives.placement(["x/0.jpg", "x/1.jpg"], ["top/x/1.jpg"]) == {"x/1.jpg": "top/x/1.jpg"}
