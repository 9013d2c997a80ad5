import numpy as np
import pytest

from g2e_lib.data.items import EvalRow, Item
from g2e_lib.embedder import encode_cached
from g2e_lib.evaluation import gap, scores
from g2e_lib.evaluation.compare import compare, write_answers
from g2e_lib.evaluation.gap import modality_gap, project
from g2e_lib.evaluation.scores import hit_at_one
from g2e_lib.evaluation.statistics import (
    Estimate,
    difference_of_ratios,
    estimate,
    estimate_ratio,
    group_names,
    paired_difference,
)
from g2e_lib.project.bootstrap import resampled_means
from g2e_lib.project.store import Store


def unit(rng, *shape):
    x = rng.normal(size=shape).astype(np.float32)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_hit_at_one_equals_a_loop_over_cosines():
    rng = np.random.default_rng(0)
    queries, targets = unit(rng, 40, 8), unit(rng, 60, 8)
    candidates = [rng.permutation(60)[: rng.integers(1, 20)] for _ in range(40)]
    expected = []
    for query, rows in zip(queries, candidates, strict=True):
        cosine = [float(np.dot(query, targets[row])) for row in rows]
        expected.append(all(cosine[0] > other for other in cosine[1:]))
    np.testing.assert_array_equal(hit_at_one(queries, targets, candidates), expected)


def test_a_tie_is_wrong():
    same = np.ones((2, 4), dtype=np.float32) / 2
    assert not hit_at_one(same[:1], same, [[0, 1]])[0]


def test_mean_over_datasets_not_over_queries():
    right = {"big": np.ones(300, dtype=bool), "small": np.zeros(100, dtype=bool)}
    value = estimate(right)
    assert (value.value, value.n) == (50.0, 400)
    assert (value.low, value.high) == (50.0, 50.0)  # no query's answer varies


def test_interval_has_the_width_statistics_predicts():
    right = np.arange(1000) % 2 == 0
    value = estimate({"a": right})
    assert value.value == 50.0
    half = 100 * 1.96 * np.sqrt(0.25 / 1000)  # of a binomial proportion
    assert value.low == pytest.approx(50 - half, abs=0.4)
    assert value.high == pytest.approx(50 + half, abs=0.4)


def test_resampling_equals_drawing_queries_one_by_one():
    values = np.array([-1.0, 0, 0, 1, 1, 1, 0.5])
    ours = resampled_means(values, np.random.default_rng(0))
    rng = np.random.default_rng(1)
    plain = np.array([rng.choice(values, len(values)).mean() for _ in range(4000)])
    np.testing.assert_allclose(np.quantile(ours, [0.1, 0.5, 0.9]), np.quantile(plain, [0.1, 0.5, 0.9]), atol=0.06)
    assert ours.std() == pytest.approx(plain.std(), rel=0.06)


def test_pairing_narrows_the_interval():
    rng = np.random.default_rng(1)
    baseline = rng.random(500) < 0.5
    better = baseline | (rng.random(500) < 0.05)
    paired = paired_difference({"a": better}, {"a": baseline})
    assert paired.value == pytest.approx(100 * (better.mean() - baseline.mean()), abs=1e-3)
    alone = estimate({"a": better})
    assert paired.high - paired.low < (alone.high - alone.low) / 2


def test_pairs_must_be_the_same_queries():
    with pytest.raises(ValueError, match="not scored on the same datasets and queries"):
        paired_difference({"a": np.ones(3)}, {"a": np.ones(4)})
    with pytest.raises(ValueError, match="no dataset to average over"):
        estimate({})


def test_chance_is_recognised():
    rng = np.random.default_rng(2)
    assert scores.is_at_chance(rng.random(300) < 0.01, 0.01)
    assert not scores.is_at_chance(rng.random(300) < 0.3, 0.01)
    rows = [EvalRow(Item("q"), (Item("a"),) * 4), EvalRow(Item("q"), (Item("a"),) * 2)]
    assert scores.chance_level(rows) == pytest.approx(0.375)


INFO = {
    "A": {"meta_task": "vqa", "distribution": "IND"},
    "B": {"meta_task": "vqa", "distribution": "OOD"},
    "C": {"meta_task": "grounding", "distribution": "IND"},
}


def test_groups_by_hand():
    right = {"A": np.array([1, 1, 0, 0]), "B": np.array([1, 0, 0, 0]), "C": np.array([1, 1, 1, 1])}
    other = {"A": np.zeros(4), "B": np.ones(4), "C": np.ones(4)}
    text = {name: [{"right": write_answers(by_dataset)}] for name, by_dataset in (("a", right), ("b", other))}
    found = compare(text, group_names(INFO), ["b", "absent"], against_all=True)
    values = {group: found["value"] for group, found in found["methods"]["a"]["groups"].items()}
    assert values == {"vqa": 37.5, "grounding": 100.0, "IND": 75.0, "OOD": 25.0, "overall": pytest.approx(58.3333)}
    assert list(found["differences"]) == ["b"]
    assert found["differences"]["b"]["a"]["vqa"]["value"] == pytest.approx((50 - 75) / 2)


class FakeEmbedder:
    """Embeds an item as a fixed random vector of its text; counts what it encodes."""

    dimension = 16

    def __init__(self, prompt="none"):
        self.prompt, self.encoded = prompt, []

    def with_prompt(self, prompt):
        other = FakeEmbedder(prompt)
        other.encoded = self.encoded
        return other

    def key(self, role):
        return {"prompt": self.prompt, "role": role}

    def encode(self, items, role, show_progress=False):
        self.encoded += [(self.prompt, role, item.text) for item in items]
        seed = [sum(map(ord, item.text)) for item in items]
        return np.stack([unit(np.random.default_rng(s), self.dimension) for s in seed])


def rows(letter, count=6):
    pool = [Item(f"{letter}{i}") for i in range(count)]
    return [EvalRow(pool[i], (pool[i], *pool[:i], *pool[i + 1 :])) for i in range(count)]


def test_evaluation_finds_identical_items_and_encodes_each_once(tmp_path):
    embedder = FakeEmbedder()
    datasets = {"A": rows("a"), "B": rows("a") + rows("b")}
    right = scores.evaluate_mmeb(embedder, datasets, Store(tmp_path), show_progress=False)
    assert {name: values.all() for name, values in right.items()} == {"A": True, "B": True}
    assert len(embedder.encoded) == len(set(embedder.encoded)) == 24
    scores.evaluate_mmeb(embedder, datasets, Store(tmp_path), show_progress=False)
    assert len(embedder.encoded) == 24


def test_a_killed_run_keeps_its_finished_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("g2e_lib.embedder.SHARD", 4)
    items = [Item(f"t{i}") for i in range(10)]
    embedder = FakeEmbedder()
    embedder.encode = lambda shard, *_, **__: (
        (_ for _ in ()).throw(KeyboardInterrupt) if items[9] in shard else FakeEmbedder.encode(embedder, shard, "query")
    )
    with pytest.raises(KeyboardInterrupt):
        encode_cached(embedder, items, "query", Store(tmp_path), show_progress=False)
    again = FakeEmbedder()
    embeddings = encode_cached(again, items, "query", Store(tmp_path), show_progress=False)
    assert [text for *_, text in again.encoded] == ["t8", "t9"]
    np.testing.assert_array_equal(embeddings, FakeEmbedder().encode(items, "query"))


def test_at_chance_is_warned_about(tmp_path, caplog):
    embedder = FakeEmbedder()
    wrong = [EvalRow(Item(f"q{i}"), (Item("no"), Item(f"q{i}"))) for i in range(20)]
    scores.evaluate_mmeb(embedder, {"A": wrong}, Store(tmp_path), show_progress=False)
    assert "A: hit@1 0.0 %, chance is 50.0 %" in caplog.text


def test_score_prompts(tmp_path):
    datasets = {"A": rows("a"), "C": rows("c")}
    metrics = scores.score_prompts(FakeEmbedder(), ["none", "user", "hierarchical"], datasets, INFO, Store(tmp_path))
    assert metrics["datasets"]["A"] == {
        "meta_task": "vqa",
        "distribution": "IND",
        "n": 6,
        "chance": pytest.approx(16.6667),
    }
    assert metrics["prompts"]["user"]["right"] == {"A": ["111111"], "C": ["111111"]}
    assert metrics["prompts"]["none"]["groups"]["overall"] == vars(Estimate(100.0, 100.0, 100.0, 12))
    assert set(metrics["differences"]) == {"none", "hierarchical"}
    assert set(metrics["differences"]["hierarchical"]) == {"none", "user"}


def test_modality_gap_by_hand():
    image = np.tile(np.array([[1.0, 0.0]], dtype=np.float32), (5, 1))
    text = np.tile(np.array([[0.0, 1.0]], dtype=np.float32), (5, 1))
    gap = modality_gap(image, text)
    assert gap["centroid_distance"]["value"] == pytest.approx(np.sqrt(2), abs=1e-4)
    assert gap["paired_cosine"]["value"] == 0
    assert modality_gap(image, image)["centroid_distance"]["value"] == 0
    assert modality_gap(image, image)["paired_cosine"] == vars(Estimate(1.0, 1.0, 1.0, 5))


def test_projection_keeps_the_distances_of_flat_data():
    rng = np.random.default_rng(3)
    flat = rng.normal(size=(20, 2)) @ np.linalg.qr(rng.normal(size=(6, 6)))[0][:2]
    points = project(flat.astype(np.float32))
    distances = [np.linalg.norm(x[:, None] - x[None], axis=-1) for x in (flat, points)]
    np.testing.assert_allclose(*distances, atol=1e-4)
    np.testing.assert_allclose(project(flat[::-1].astype(np.float32)), points[::-1], atol=1e-4)


def test_image_text_pairs_refuse_other_datasets(tmp_path):
    good = EvalRow(Item("instruction", tmp_path / "x"), (Item("caption"),))
    assert gap.image_text_pairs([good], 5) == [(Item("", tmp_path / "x"), Item("caption"))]
    with pytest.raises(ValueError, match="not image-to-text: choose a dataset such as CaptionI2T"):
        gap.image_text_pairs([EvalRow(Item("text"), (Item("a"),))], 5)


def test_ratios_weigh_datasets_alike_and_count_units():
    counts = {"a": [[1, 2], [0, 2]], "b": [[3, 100]], "empty": []}
    one = estimate_ratio(counts)
    assert one.value == pytest.approx(100 * (1 / 4 + 3 / 100) / 2)
    assert one.n == 3
    assert one.low < one.value < one.high
    with pytest.raises(ValueError, match="nothing to count"):
        estimate_ratio({"a": [[0, 0]]})


def test_differences_of_ratios_use_the_datasets_of_both():
    difference = difference_of_ratios({"a": [[1, 2]], "b": [[1, 1]]}, {"a": [[1, 4]], "b": []})
    assert difference.value == pytest.approx(25)
    many, same = {"a": [[i % 2, 1] for i in range(400)]}, {"a": [[i % 2, 1] for i in range(400)]}
    assert difference_of_ratios(many, same).low < 0 < difference_of_ratios(many, same).high
