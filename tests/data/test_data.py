import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from g2e_lib.data.items import EvalRow, Item, item_digests, unique
from g2e_lib.data.mmeb import EVAL_SCHEMA, TRAIN_SCHEMA, read_mmeb_eval, read_mmeb_train


def write(path, records, schema):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema), path)


def eval_record(**changes):
    record = {"qry_text": "<|image_1|>\nname it", "qry_img_path": "a/1.jpg", "tgt_text": ["cat", "dog"]}
    return record | {"tgt_img_path": ["", ""]} | changes


def test_eval_rows_lose_the_placeholder_and_get_absolute_images(tmp_path):
    write(tmp_path / "Set" / "test-00000-of-00001.parquet", [eval_record()], EVAL_SCHEMA)
    rows = read_mmeb_eval(tmp_path, "Set", tmp_path / "pictures")
    assert rows == [EvalRow(Item("name it", tmp_path / "pictures/a/1.jpg"), (Item("cat"), Item("dog")))]


def test_rows_share_their_candidates(tmp_path):
    """A dataset's thousand candidates may belong to each of its thousand rows."""
    write(tmp_path / "Set" / "test-00000-of-00001.parquet", [eval_record(), eval_record()], EVAL_SCHEMA)
    one, other = read_mmeb_eval(tmp_path, "Set", tmp_path)
    assert all(a is b for a, b in zip(one.candidates, other.candidates, strict=True))


def test_shards_are_read_in_order_and_limited(tmp_path):
    for shard in (1, 0):
        records = [eval_record(qry_text=f"{shard}-{i}") for i in range(2)]
        write(tmp_path / "Set" / f"test-0000{shard}-of-00002.parquet", records, EVAL_SCHEMA)
    assert [row.query.text for row in read_mmeb_eval(tmp_path, "Set", tmp_path, limit=3)] == ["0-0", "0-1", "1-0"]


def test_lists_of_unequal_length_name_the_row(tmp_path):
    records = [eval_record(), eval_record(tgt_img_path=[""])]
    write(tmp_path / "Set" / "test-00000-of-00001.parquet", records, EVAL_SCHEMA)
    with pytest.raises(ValueError, match="row 1 of Set has 2 candidate texts and 1 candidate images"):
        read_mmeb_eval(tmp_path, "Set", tmp_path)


def test_unknown_subset_split_and_folder_say_what_there_is(tmp_path):
    write(tmp_path / "Known" / "original-00000-of-00001.parquet", [], TRAIN_SCHEMA)
    with pytest.raises(ValueError, match="unknown subset 'Nown' in .*: choose one of Known"):
        read_mmeb_train(tmp_path, "Nown", tmp_path)
    with pytest.raises(ValueError, match="has no split 'diverse_instruction': choose one of original"):
        read_mmeb_train(tmp_path, "Known", tmp_path, split="diverse_instruction")
    with pytest.raises(ValueError, match="no data folder .*nowhere: run notebook 00_setup first"):
        read_mmeb_train(tmp_path / "nowhere", "Known", tmp_path)


def test_train_pairs(tmp_path):
    record = {"qry": "<|image_1|> find it", "qry_image_path": "q.png", "pos_text": "a cat", "pos_image_path": ""}
    write(tmp_path / "S" / "original-00000-of-00001.parquet", [record], TRAIN_SCHEMA)
    (pair,) = read_mmeb_train(tmp_path, "S", tmp_path)
    assert pair.query == Item("find it", tmp_path / "q.png")
    assert pair.target == Item("a cat")


def test_unique_keeps_first_appearance():
    items = [Item("b"), Item("a"), Item("b")]
    distinct, rows = unique(items)
    assert distinct == [Item("b"), Item("a")]
    np.testing.assert_array_equal(rows, [0, 1, 0])


def test_digests_follow_content_not_names(tmp_path):
    (tmp_path / "1.bin").write_bytes(b"same")
    (tmp_path / "2.bin").write_bytes(b"same")
    (tmp_path / "3.bin").write_bytes(b"other")
    items = [Item("x", tmp_path / f"{i}.bin") for i in (1, 2, 3)]
    digests = item_digests([*items, Item("x")])
    assert digests[items[0]] == digests[items[1]]
    assert len(set(digests.values())) == 3


def test_digest_of_a_missing_image_names_it(tmp_path):
    with pytest.raises(ValueError, match="image .*gone.png does not exist: check the path"):
        item_digests([Item("", tmp_path / "gone.png")])
