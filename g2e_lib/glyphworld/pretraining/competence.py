"""How good a generator a base model is, on scenes it never saw.

Right is what greedy decoding would say exactly, end of turn included: each token is likeliest after the right prefix.
"""

import random
from collections import defaultdict
from collections.abc import Collection

import numpy as np
import torch
from transformers import PreTrainedModel

from g2e_lib.backbone.processor import G2EProcessor
from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.statistics import estimate
from g2e_lib.glyphworld.pretraining.batches import IGNORED, batches, forward
from g2e_lib.glyphworld.pretraining.corpus import Conversation
from g2e_lib.glyphworld.world.language import long_caption, questions
from g2e_lib.glyphworld.world.scenes import Split, sample_scene
from g2e_lib.project.fingerprint import code_fingerprint
from g2e_lib.project.store import Store

# Question kind -> required share of right answers, from images and from text descriptions.
GATES = {"colour": (0.95, 0.95), "at place": (0.90, 0.95), "single": (0.90, 0.95), "count": (0.85, 0.95)}


@torch.inference_mode()
def competence(
    model: PreTrainedModel,
    processor: G2EProcessor,
    split: Split,
    per_kind: int = 300,
    seed: int = 0,
    kinds: Collection[str] = (),
) -> list[dict]:
    """Ask questions of every kind, or of `kinds`, about pictures and about descriptions of scenes of `split`.

    Returns one record per kind and source ("image" or "text"): the share of right answers as an estimate in percent.
    """
    model.eval()
    rng = random.Random(f"competence {split} {seed}")
    asked: dict[tuple[str, str], list[Conversation]] = defaultdict(list)
    kinds = kinds or {q.kind for _ in range(50) for q in questions(sample_scene(rng, split), rng)} | {"single"}
    while any(len(asked["image", kind]) < per_kind for kind in kinds):
        scene = sample_scene(rng, split)
        for q in questions(scene, rng):
            if q.kind in kinds and len(asked["image", q.kind]) < per_kind and rng.random() < 0.3:
                asked["image", q.kind].append(Conversation(((q.text, q.answer),), None, scene))
                described = f"{long_caption(scene, rng)[0]}\n{q.text}"
                asked["text", q.kind].append(Conversation(((described, q.answer),)))
    records = []
    for (source, kind), conversations in sorted(asked.items()):
        right = _exactly_right(model, processor, conversations)
        records.append({"kind": kind, "source": source, **vars(estimate({kind: right}))})
    return records


def _exactly_right(model: PreTrainedModel, processor: G2EProcessor, conversations: list[Conversation]) -> np.ndarray:
    """For each conversation, in no particular order, whether every answer token is right: (N,) bool."""
    right = []
    for batch in batches(conversations, processor, chunk_tokens=4096):
        logits, labels = forward(model, batch)
        rows = (batch["labels"][:, 1:] != IGNORED).nonzero()[:, 0]  # the conversation of each labelled token
        wrong_rows = rows[logits.argmax(-1) != labels].unique()
        right += [bool(row not in wrong_rows) for row in rows.unique()]
    return np.array(right)


def competence_cached(embedder: Embedder, store: Store, split: Split, per_kind: int = 300, seed: int = 0) -> list[dict]:
    """`competence` of an embedder's model, whatever its prompt, through the store."""
    key = {"competence": embedder.identity, "split": split, "per_kind": per_kind, "seed": seed}
    key["code"] = code_fingerprint("glyphworld.pretraining.competence")
    return store.json(key, lambda: competence(embedder.model, embedder.processor, split, per_kind, seed))


def missed_gates(records: list[dict]) -> list[str]:
    """The gates of GATES that are not met, each with the share and what is required."""
    share = {(record["source"], record["kind"]): record["value"] for record in records}
    return [
        f"{kind} from {source} ({share[source, kind]:.1f} %, required {100 * required:.0f} %)"
        for kind, gates in GATES.items()
        for source, required in zip(("image", "text"), gates, strict=True)
        if share[source, kind] < 100 * required
    ]


def verdict(records: list[dict]) -> str:
    """One sentence on whether the gates are met, naming those that are not."""
    missed = missed_gates(records)
    return f"below the gate: {'; '.join(missed)}" if missed else "every gate is met"
