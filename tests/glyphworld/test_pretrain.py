import dataclasses
import json
import random

import pytest
import torch
from torch import nn

from g2e_lib.config import resolve_model
from g2e_lib.glyphworld import pretrain
from g2e_lib.glyphworld.competence import competence, passes_gates, verdict
from g2e_lib.glyphworld.corpus import sample_conversation
from g2e_lib.glyphworld.model import build_model, build_processor, build_tokenizer
from g2e_lib.glyphworld.pretrain import (
    IGNORED,
    Muon,
    Recipe,
    batches,
    cell_labels,
    forward,
    orthogonalize,
    pretrain_vision,
)
from g2e_lib.glyphworld.scenes import Scene, Thing
from g2e_lib.glyphworld.vocabulary import COLOURS, OBJECTS
from g2e_lib.qwen2vl import PACKED_ATTENTION

SMALL = Recipe(vision_steps=4, vision_images=4, steps=6, conversations=4, warmup_steps=2, decay_steps=2, save_every=2)


@pytest.fixture(scope="module")
def parts():
    rng = random.Random(0)
    processor = build_processor(
        build_tokenizer("".join(p for p, _ in sample_conversation(rng).segments()) for _ in range(300))
    )
    return build_model(processor.tokenizer, 0), processor


def test_loss_is_that_of_the_stock_model(parts):
    """Chunked, packed and sorted, against one conversation at a time through the unmodified class."""
    model, processor = parts
    rng = random.Random(1)
    conversations = [sample_conversation(rng) for _ in range(12)]
    total = count = 0.0
    model.model.visual.set_attn_implementation("sdpa")
    with torch.no_grad():
        for conversation in conversations:
            image = pretrain.conversation_image(conversation)
            pixels = processor.image_processor(images=[image], return_tensors="pt") if image else {}
            visual = int(pixels["image_grid_thw"].prod()) // 4 if image else 0
            ids, labels = (torch.tensor([x]) for x in pretrain.tokenize(conversation, processor, visual))
            types = (ids == model.config.image_token_id).int()
            output = model(input_ids=ids, labels=labels, mm_token_type_ids=types, **pixels)
            n = int((labels[:, 1:] != IGNORED).sum())
            total, count = total + float(output.loss) * n, count + n
        model.model.visual.set_attn_implementation(PACKED_ATTENTION)
        ours = ours_count = 0.0
        for batch in batches(conversations, processor, chunk_tokens=300):
            logits, wanted = forward(model, batch)
            ours += float(nn.functional.cross_entropy(logits, wanted, reduction="sum", ignore_index=IGNORED))
            ours_count += int((wanted != IGNORED).sum())
    assert ours_count == count
    assert ours / ours_count == pytest.approx(total / count, abs=1e-4)


def test_cell_labels():
    scene = Scene("gray", (Thing(1, "sun", "red"),))
    sun, red = OBJECTS.index("sun"), list(COLOURS).index("red")
    assert cell_labels(scene) == [(60, 10, 1, 0), (sun, red, 1, 1), (60, 10, 1, 2), (60, 10, 1, 3)]
    assert cell_labels(scene, place=1) == [(sun, red, 1, 4)]


def test_orthogonalize_keeps_directions_and_levels_strengths():
    torch.manual_seed(0)
    for shape in ((20, 50), (50, 20)):
        matrix = torch.randn(shape)
        u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
        result = orthogonalize(matrix)
        strengths = torch.diagonal(u.T @ result @ vt.T)
        assert strengths.min() > 0.6
        assert strengths.max() < 1.3
        torch.testing.assert_close(result, u @ torch.diag(strengths) @ vt, atol=1e-3, rtol=0)


def test_muon_equals_torchs_up_to_bfloat16():
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(24, 40)) for _ in range(2))
    torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    mine = Muon([ours], weight_decay=0.1)
    mine.param_groups[0]["lr"] = 0.1
    for step in range(3):
        gradient = torch.randn(24, 40, generator=torch.Generator().manual_seed(step))
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        torchs.step()
    torch.testing.assert_close(ours, theirs, atol=0.01, rtol=0)


def test_vision_phase_learns_and_standardizes(parts):
    _, processor = parts
    model = build_model(processor.tokenizer, 0)
    model.model.visual.set_attn_implementation(PACKED_ATTENTION)
    recipe = dataclasses.replace(SMALL, vision_steps=100, vision_images=8)
    (record,) = pretrain_vision(model, processor, recipe)
    assert record["loss"] < 8.4  # guessing by frequency alone costs 8.5
    rng = random.Random(0)
    images = [pretrain.conversation_image(pretrain._drawn(rng)) for _ in range(32)]
    with torch.no_grad():
        tokens = pretrain.encode_images(
            model.model.visual, **processor.image_processor(images=images, return_tensors="pt")
        )
    assert float(tokens.norm(dim=1).mean()) == pytest.approx(1, abs=0.25)


def test_a_killed_run_resumes_exactly(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "TOKENIZER_SAMPLE", 200)
    straight = pretrain.pretrain(SMALL, tmp_path / "straight")
    real, calls = pretrain.train_step, []

    def dies(*arguments):
        calls.append(arguments[-1])
        if len(calls) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(pretrain, "train_step", dies)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain(SMALL, tmp_path / "killed")
    monkeypatch.setattr(pretrain, "train_step", real)
    resumed = pretrain.pretrain(SMALL, tmp_path / "killed")
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    facts, log = pretrain.read_training_record(resumed)
    assert facts["recipe"]["steps"] == 6
    assert [r["step"] for r in log if r["phase"] == "language"] == [2, 4, 6]
    json.dumps(facts)


def test_no_training_record(tmp_path):
    with pytest.raises(ValueError, match="has no training.jsonl: it is not a GlyphWorld base model"):
        pretrain.read_training_record(tmp_path)


# --- the model that ships ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shipped():
    from g2e_lib.checkpoint import checkpoint_folder, load_model, load_processor

    folder = checkpoint_folder(resolve_model("glyphworld-base"))
    return load_model(folder, "float32"), load_processor(folder)


def test_the_shipped_model_is_competent(shipped):
    records = competence(*shipped, "validation", per_kind=200, seed=1)
    assert passes_gates(records), verdict(records)


def test_competence_agrees_with_greedy_decoding(shipped):
    from g2e_lib.embedder import Embedder
    from g2e_lib.generate import reply
    from g2e_lib.glyphworld.language import questions
    from g2e_lib.glyphworld.render import render
    from g2e_lib.glyphworld.scenes import sample_scene

    rng = random.Random(5)
    asked = [
        (scene, q) for scene in (sample_scene(rng, "validation") for _ in range(3)) for q in questions(scene, rng)[:4]
    ]
    from g2e_lib.glyphworld.competence import _exactly_right
    from g2e_lib.glyphworld.corpus import Conversation

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
