import random

import pytest

from g2e_lib.checkpoint import checkpoint_folder, load_model, load_processor
from g2e_lib.embedder import Embedder
from g2e_lib.generate import reply
from g2e_lib.glyphworld.competence import _exactly_right, competence, passes_gates, verdict
from g2e_lib.glyphworld.corpus import Conversation
from g2e_lib.glyphworld.language import questions
from g2e_lib.glyphworld.render import render
from g2e_lib.glyphworld.scenes import sample_scene


@pytest.fixture(scope="module")
def shipped():
    folder = checkpoint_folder("glyphworld-base")
    return load_model(folder, "float32"), load_processor(folder)


def test_the_shipped_model_is_competent(shipped):
    records = competence(*shipped, "validation", per_kind=200, seed=1)
    assert passes_gates(records), verdict(records)


def test_competence_agrees_with_greedy_decoding(shipped):

    rng = random.Random(5)
    asked = [
        (scene, q) for scene in (sample_scene(rng, "validation") for _ in range(3)) for q in questions(scene, rng)[:4]
    ]

    embedder = Embedder(*shipped, "none")
    greedy = sum(reply(embedder, {"image": render(s), "text": q.text}) == q.answer for s, q in asked)
    forced = _exactly_right(*shipped, [Conversation(((q.text, q.answer),), None, s) for s, q in asked]).sum()
    assert greedy == forced


def test_verdict_names_what_is_missing():
    records = [
        {"kind": k, "source": s, "value": 100.0}
        for k in ("colour", "at place", "single", "count")
        for s in ("image", "text")
    ]
    assert passes_gates(records)
    records[0]["value"] = 94.0
    assert verdict(records) == "below the gate: colour from image (94.0 %, required 95 %)"
