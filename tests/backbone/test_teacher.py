"""The text teacher's files: any sentence-transformers model in, checked embeddings out."""

import numpy as np
import pytest

from g2e_lib.backbone.teacher import load_teacher, save_teacher, teacher_folder, teacher_identity
from g2e_lib.data.items import Item, Pair
from g2e_lib.data.subsets import Subset
from g2e_lib.glyphworld import text_teacher
from g2e_lib.glyphworld.sentences import paraphrases
from g2e_lib.project.store import Store

SMALL = text_teacher.TeacherSize(pairs=256, batch=32, hidden=32, layers=1)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return text_teacher.prepare_teacher(tmp_path_factory.mktemp("teachers"), SMALL)


def subset(name, pairs):
    items = [Pair(Item(one), Item(other)) for one, other in pairs]
    targets = list(dict.fromkeys(pair.target for pair in items))
    return Subset(name, items, targets, np.array([targets.index(pair.target) for pair in items]))


def test_it_learns_and_is_trained_once(teacher, tmp_path):
    judged = paraphrases(100, "validation")
    recall = text_teacher.judge_teacher(teacher, judged, Store(tmp_path))
    assert recall["n"] == 100
    assert recall["low"] > 5  # guessing gives one in a hundred
    changed = (teacher / "model.safetensors").stat().st_mtime_ns
    assert text_teacher.prepare_teacher(teacher.parent, SMALL) == teacher
    assert (teacher / "model.safetensors").stat().st_mtime_ns == changed
    again = text_teacher.prepare_teacher(tmp_path, SMALL)
    assert teacher_identity(again) == teacher_identity(teacher)


def test_embeddings_come_back_in_the_order_of_the_subsets(teacher, tmp_path):
    from sentence_transformers import SentenceTransformer

    one, two = subset("one", paraphrases(6, "train")), subset("two", paraphrases(4, "validation"))
    path = tmp_path / "teacher.safetensors"
    save_teacher(path, teacher, [one, two], Store(tmp_path / "store"))
    embeddings, identity = load_teacher(path, [two, one])
    assert identity == teacher_identity(teacher)
    texts = [text for s in (two, one) for pair in s.pairs for text in (pair.query.text, pair.target.text)]
    expected = SentenceTransformer(str(teacher), device="cpu").encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embeddings.reshape(20, -1), expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=2), 1, atol=1e-5)


def test_what_is_wrong_is_named(teacher, tmp_path, monkeypatch):
    path, one = tmp_path / "teacher.safetensors", subset("one", paraphrases(4, "train"))
    save_teacher(path, teacher, [one], Store(tmp_path / "store"))
    with pytest.raises(ValueError, match="was made from other pairs than those of 'one': write it again"):
        load_teacher(path, [subset("one", paraphrases(5, "train"))])
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match="holds no teacher embeddings"):
        load_teacher(path, [one])
    with pytest.raises(ValueError, match="there is no file of teacher embeddings"):
        load_teacher(tmp_path / "none", [one])
    pictured = Subset("one", [Pair(Item("a", tmp_path / "a.png"), Item("b"))], [Item("b")], np.array([0]))
    with pytest.raises(ValueError, match="subset 'one' has images, but a teacher embeds sentences"):
        save_teacher(path, teacher, [pictured], Store(tmp_path / "store"))
    with pytest.raises(ValueError, match=r"has no modules.json: give a sentence-transformers model"):
        teacher_folder(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ValueError, match="cannot get the teacher 'nobody/nothing' from the hub"):
        teacher_folder("nobody/nothing")
