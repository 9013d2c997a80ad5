"""SugarCrepe's readers on the real files and on broken ones, and its scores against raw similarities."""

import json

import numpy as np
import pytest
from PIL import Image

from g2e_lib.data.sugarcrepe import (
    CAPTION_PREFIX,
    SUGARCREPE,
    SUGARCREPE_PP,
    CrepeRow,
    read_sugarcrepe,
    read_sugarcrepe_pp,
    with_images,
)
from g2e_lib.evaluation.sugarcrepe import (
    compare_models,
    evaluate_sugarcrepe,
    group_subsets,
    save_gallery,
    score_rows,
    worst_rows,
)
from g2e_lib.project.store import Store

COUNTS = {"add_att": 692, "add_obj": 2062, "replace_att": 788, "replace_obj": 1652, "replace_rel": 1406}
COUNTS |= {"swap_att": 666, "swap_obj": 245}


def test_the_real_files_have_their_counts(shared_data):
    images = shared_data / "coco_val2017"
    first = {name: read_sugarcrepe(shared_data / "sugarcrepe", name, images) for name in SUGARCREPE}
    second = {name: read_sugarcrepe_pp(shared_data / "sugarcrepe_pp", name, images) for name in SUGARCREPE_PP}
    assert {name: len(rows) for name, rows in first.items()} == COUNTS
    assert {name: len(rows) for name, rows in second.items()} == {name: COUNTS[name] for name in SUGARCREPE_PP}
    assert first["swap_obj"][0].captions == ("A cat sits on its hind legs, and swats at the plant.",)
    assert second["swap_obj"][0].captions[1] == "The cat swats at the plant while sitting on its hind legs."


def test_rows_whose_photo_is_there_are_scored_end_to_end(shared_data, embedder, tmp_path):
    images = shared_data / "coco_val2017"
    subsets = {name: read_sugarcrepe_pp(shared_data / "sugarcrepe_pp", name, images) for name in SUGARCREPE_PP}
    kept, missing = with_images(subsets)
    kept = {name: rows for name, rows in kept.items() if rows}
    assert {row.image.name for rows in kept.values() for row in rows} <= {path.name for path in images.iterdir()}
    assert 0 < sum(map(len, kept.values())) < 40
    assert len(missing) > 1500
    scores = evaluate_sugarcrepe(embedder, kept, Store(tmp_path), show_progress=False)
    assert {name: len(one["text"]) for name, one in scores.items()} == {name: len(rows) for name, rows in kept.items()}


@pytest.fixture
def rows(tmp_path):
    for number in range(3):
        Image.new("RGB", (64, 64), (80 * number, 90, 200 - 60 * number)).save(tmp_path / f"{number}.png")
    texts = [("a red sun", "the sun is red", "a blue sun"), ("a star", "one star", "a king"), ("x y", "y, x", "y x")]
    return [CrepeRow(tmp_path / f"{n}.png", pair[:2], pair[2]) for n, pair in enumerate(texts)]


def test_scores_equal_a_loop_over_raw_similarities(rows, embedder, tmp_path):
    scores = evaluate_sugarcrepe(embedder, {"swap_obj": rows, "swap_att": rows[:2]}, Store(tmp_path), False)
    for name, some in (("swap_obj", rows), ("swap_att", rows[:2])):
        for number, row in enumerate(some):
            p1, p2, n = embedder.encode([CAPTION_PREFIX + text for text in (*row.captions, row.negative)], "query")
            (image,) = embedder.encode([{"image": row.image}], "target")
            assert scores[name]["image"][number] == (p1 @ image > n @ image and p2 @ image > n @ image)
            assert scores[name]["text"][number] == (p1 @ p2 > p1 @ n and p1 @ p2 > p2 @ n)
    single = [CrepeRow(row.image, row.captions[:1], row.negative) for row in rows]
    one = evaluate_sugarcrepe(embedder, {"add_obj": single}, Store(tmp_path), False)["add_obj"]
    assert set(one) == {"image", "margin"}


def test_ties_are_wrong():
    axis = np.eye(2, dtype=np.float32)
    tied = score_rows(axis[:1], axis[None, [0, 0]], axis[:1])
    assert not tied["image"][0]
    assert not tied["text"][0]
    clear = score_rows(axis[:1], axis[None, [0, 0]], axis[1:])
    assert clear["image"][0]
    assert clear["text"][0]


def test_groups_are_those_of_the_papers():
    groups = group_subsets(SUGARCREPE)
    assert {name: len(members) for name, members in groups.items()} == {"replace": 3, "swap": 2, "add": 2, "mean": 7}


def test_bad_files_are_named(tmp_path, rows):
    with pytest.raises(ValueError, match="unknown subset 'add_rel' of SugarCrepe: choose one of replace_obj"):
        read_sugarcrepe(tmp_path, "add_rel", tmp_path)
    with pytest.raises(ValueError, match="unknown subset 'add_obj' of SugarCrepe"):
        read_sugarcrepe_pp(tmp_path, "add_obj", tmp_path)
    with pytest.raises(ValueError, match=r"swap_obj.json does not exist: download it from the folder data/"):
        read_sugarcrepe(tmp_path, "swap_obj", tmp_path)
    path = tmp_path / "swap_obj.json"
    path.write_text("[")
    with pytest.raises(ValueError, match="is not valid JSON"):
        read_sugarcrepe(tmp_path, "swap_obj", tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="must hold an object of rows"):
        read_sugarcrepe(tmp_path, "swap_obj", tmp_path)
    path.write_text(json.dumps({"107": {"filename": "a.jpg", "caption": "x", "negative_caption": ""}}))
    with pytest.raises(ValueError, match="row '107' of swap_obj must have the texts filename, caption, negative_cap"):
        read_sugarcrepe(tmp_path, "swap_obj", tmp_path)
    path.write_text("{}")
    with pytest.raises(ValueError, match="must hold a list of rows"):
        read_sugarcrepe_pp(tmp_path, "swap_obj", tmp_path)


def test_a_wrong_image_root_is_found_before_encoding(tmp_path, rows):
    kept, missing = with_images({"swap_obj": [*rows, CrepeRow(tmp_path / "9.png", ("a",), "b")]})
    assert kept == {"swap_obj": rows}
    assert missing == ["9.png"]
    with pytest.raises(ValueError, match=r"none of the 1 images is in .*elsewhere \(first missing: 9.png\): check"):
        with_images({"swap_obj": [CrepeRow(tmp_path / "elsewhere" / "9.png", ("a",), "b")]})


def test_methods_are_compared_row_by_row(rows, embedder, tmp_path):
    plain = [CrepeRow(row.image, row.captions[:1], row.negative) for row in rows]
    sets = {"sugarcrepe": {"swap_obj": plain, "add_obj": plain[:2]}, "sugarcrepe_pp": {"swap_obj": rows}}
    made = {name: (lambda n=name: embedder.with_prompt(n)) for name in ("none", "system")}
    metrics, scores = compare_models(made, sets, ["none"], Store(tmp_path))
    assert {name: list(kinds) for name, kinds in metrics["sets"].items()} == {
        "sugarcrepe": ["image"],
        "sugarcrepe_pp": ["image", "text"],
    }
    right = {m: [scores["sugarcrepe"][m][s]["image"].mean() for s in ("swap_obj", "add_obj")] for m in made}
    shown = metrics["sets"]["sugarcrepe"]["image"]
    assert shown["system"]["groups"]["mean"]["value"] == pytest.approx(100 * np.mean(right["system"]), abs=1e-3)
    assert shown["none"]["groups"]["add"]["n"] == 2
    difference = metrics["differences"]["sugarcrepe"]["image"]["none"]["system"]["mean"]["value"]
    assert difference == pytest.approx(100 * (np.mean(right["system"]) - np.mean(right["none"])), abs=1e-3)


def test_the_gallery_shows_the_worst_row(rows, tmp_path):
    margins = {"a": [0.1, -0.2, -0.3], "b": [0.1, 0.2, 0.3]}
    scores = {method: {"swap_obj": {"margin": np.array(one)}} for method, one in margins.items()}
    found = worst_rows(scores, {"swap_obj": rows})
    assert found["b"] == []
    (record,) = found["a"]
    assert (record["row"], record["wrong"], record["of"], record["negative"]) == (2, 2, 3, "y x")
    ((kept,), _) = save_gallery(found, tmp_path / "results").values()
    with Image.open(tmp_path / "results" / kept["image"]) as image, Image.open(rows[2].image) as original:
        assert image.tobytes() == original.tobytes()
