"""The truth about UniME's filter, against a slow count."""

import random

import numpy as np

from g2e_lib.data.subsets import load_subsets
from g2e_lib.evaluation.negatives import AnnotatedJudge, judge_filter, right_answers
from g2e_lib.glyphworld.truth import Judge
from g2e_lib.glyphworld.world.scenes import matches
from g2e_lib.mining import embed_subset
from g2e_lib.project.store import Store


def test_rates_equal_a_slow_count(small_build, embedder, tmp_path):
    store, names = Store(tmp_path), ["CaptionI2T", "ObjectKind"]
    subsets = load_subsets(small_build / "train", names)
    judges = [Judge(small_build, name) for name in names]
    found = judge_filter(embedder, subsets, judges, [0.05, 2.0], 4, (3, 16), store)
    rows, rng = [(i, row) for i, s in enumerate(subsets) for row in range(len(s.pairs))], random.Random("filter 0")
    embedded = [embed_subset(embedder, subset, store) for subset in subsets]
    counts = {0.05: [0, 0], 2.0: [0, 0]}
    for _ in range(3):
        batch = rng.sample(rows, 16)
        for i, row in batch:
            query = embedded[i][0][row]
            own = query @ embedded[i][1][subsets[i].positive_of[row]]
            others = []
            for j, other in batch:
                if subsets[j].pairs[other].target != subsets[i].pairs[row].target:
                    similarity = query @ embedded[j][1][subsets[j].positive_of[other]]
                    others.append((similarity, matches(judges[i].queries[row], judges[j].targets[other])))
            for margin, count in counts.items():
                chosen = sorted((one for one in others if one[0] <= own + margin), key=lambda one: -one[0])[:4]
                count[0] += sum(is_right for _, is_right in chosen)
                count[1] += len(chosen)
    for margin, name in ((0.05, "beta = 0.05"), (2.0, "no filter")):
        np.testing.assert_allclose(
            found["rates"][name]["value"], 100 * counts[margin][0] / counts[margin][1], atol=1e-3
        )
    assert found["rates"]["no filter"]["n"] == 48
    assert found["dropped"]["no filter"]["value"] == 0
    difference = found["rates"]["beta = 0.05"]["value"] - found["rates"]["no filter"]["value"]
    np.testing.assert_allclose(found["differences"]["beta = 0.05"]["value"], difference, atol=1e-3)


def test_annotated_answers_are_known_within_a_subset_only(small_build):
    subsets = load_subsets(small_build / "train", ["ObjectKind", "CaptionI2T"])
    judges = [AnnotatedJudge(subset) for subset in subsets]
    same = next(
        (a, b) for b, two in enumerate(subsets[0].pairs) for a, one in enumerate(subsets[0].pairs[:b])
        if one.target == two.target
    )  # fmt: skip
    batch = [(0, same[0]), (0, same[1]), (1, same[0])]
    expected = [[True, True, False], [True, True, False], [False, False, True]]
    assert right_answers(judges, batch).tolist() == expected
