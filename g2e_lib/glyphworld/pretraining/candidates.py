"""Describe a base model in one record: its competence, which decides, and its zero-shot score, which does not.

`python -m g2e_lib.glyphworld.pretraining.candidates FOLDER NAME REMARK [chosen]` appends the record to
base_models.json, the table of every base model that was trained.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.scores import score_prompts
from g2e_lib.glyphworld.benchmark import Size, load, prepare
from g2e_lib.glyphworld.pretraining.competence import GATES, competence, missed_gates
from g2e_lib.glyphworld.pretraining.pretrain import BASE_MODELS
from g2e_lib.project.config import CACHE, file_digest
from g2e_lib.project.store import Store, read_json, write_json

PROMPTS = ("none", "hierarchical")


def _interval(estimate: Mapping[str, float], form: str = ".1f") -> str:
    return f"{estimate['value']:{form}} [{estimate['low']:{form}}, {estimate['high']:{form}}]"


def describe(folder: Path, name: str, remark: str, is_chosen: bool) -> dict[str, str]:
    """A base model's record: competence in percent on validation scenes, and hit@1 on MMEB-mini."""
    embedder = Embedder.from_pretrained(folder, device="cpu", dtype="float32")
    records = competence(embedder.model, embedder.processor, "validation")
    share = {(record["kind"], record["source"]): record["value"] for record in records}
    rows, facts = load(prepare(CACHE, Size()))
    metrics = score_prompts(embedder, PROMPTS, rows, facts, Store(CACHE / "embeddings"))
    return {
        "name": name,
        "remark": remark,
        **{f"{kind}: image / text (%)": f"{share[kind, 'image']:.1f} / {share[kind, 'text']:.1f}" for kind in GATES},
        "gates": "missed" if missed_gates(records) else "met",
        **{f"hit@1 {prompt}": _interval(metrics["prompts"][prompt]["groups"]["overall"]) for prompt in PROMPTS},
        "difference": _interval(metrics["differences"]["none"]["hierarchical"]["overall"], "+.1f"),
        "weights": file_digest(Path(folder) / "model.safetensors")[:16],
        "chosen": "yes" if is_chosen else "no",
    }


if __name__ == "__main__":
    folder, name, remark, *rest = sys.argv[1:]
    record = describe(Path(folder), name, remark, is_chosen=rest == ["chosen"])
    others = [other for other in read_json(BASE_MODELS, made_by="git checkout") if other["name"] != name]
    write_json(BASE_MODELS, [*others, record])
