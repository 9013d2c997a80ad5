import random

import pytest

from g2e_lib.backbone.checkpoint import checkpoint_folder, load_model, load_processor
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.generate import reply
from g2e_lib.glyphworld.pretraining.competence import GATES, _exactly_right, competence, missed_gates, verdict
from g2e_lib.glyphworld.pretraining.corpus import Conversation
from g2e_lib.glyphworld.pretraining.pretrain import BASE_MODELS
from g2e_lib.glyphworld.world.language import questions
from g2e_lib.glyphworld.world.render import render
from g2e_lib.glyphworld.world.scenes import sample_scene
from g2e_lib.project.store import read_json


@pytest.fixture(scope="module")
def shipped():
    folder = checkpoint_folder("glyphworld-base")
    return load_model(folder, "float32"), load_processor(folder)


def test_the_shipped_model_is_as_competent_as_recorded(shipped):
    """Other questions than those of the record, so a few points of chance are allowed."""
    (recorded,) = (one for one in read_json(BASE_MODELS, made_by="git checkout") if one["chosen"] == "yes")
    records = competence(*shipped, "validation", per_kind=100, seed=1, kinds=GATES)
    assert len(records) == 2 * len(GATES)
    for record in records:
        image, text = recorded[f"{record['kind']}: image / text (%)"].split(" / ")
        assert record["value"] == pytest.approx(float(image if record["source"] == "image" else text), abs=9), record
    share = {
        (kind, source): float(recorded[f"{kind}: image / text (%)"].split(" / ")[index])
        for kind in GATES
        for index, source in enumerate(("image", "text"))
    }
    values = [{"kind": kind, "source": source, "value": value} for (kind, source), value in share.items()]
    assert bool(missed_gates(values)) == (recorded["gates"] == "missed")


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
    assert not missed_gates(records)
    records[0]["value"] = 94.0
    assert verdict(records) == "below the gate: colour from image (94.0 %, required 95 %)"
