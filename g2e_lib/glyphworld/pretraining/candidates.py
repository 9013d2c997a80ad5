"""Describe a base model in one record: its competence, which decides, and its zero-shot score, which does not.

`python -m g2e_lib.glyphworld.pretraining.candidates FOLDER NAME REMARK [chosen]` appends the record to
base_models.json, the table of every base model that was trained.
"""

import sys
from pathlib import Path

from g2e_lib.embedder import Embedder
from g2e_lib.evaluation.scores import score_prompts
from g2e_lib.glyphworld.benchmark import Size, load, prepare
from g2e_lib.glyphworld.pretraining.competence import GATES, competence, passes_gates
from g2e_lib.glyphworld.pretraining.pretrain import BASE_MODELS
from g2e_lib.project.config import CACHE, file_digest
from g2e_lib.project.store import Store, read_json, write_json
from g2e_lib.report.text import interval

PROMPTS = ("none", "hierarchical")


def describe(folder: Path, name: str, remark: str, is_chosen: bool) -> dict[str, str]:
    """Measure a base model.

    Args:
        folder: its checkpoint.
        name: what to call it.
        remark: what distinguishes it, and why it was or was not chosen.
        is_chosen: whether it is the one that ships.

    Returns:
        The record: percentages from images and from texts on validation scenes, and hit@1 on MMEB-mini.
    """
    embedder = Embedder.from_pretrained(folder, device="cpu", dtype="float32")
    records = competence(embedder.model, embedder.processor, "validation")
    share = {(one["kind"], one["source"]): one["value"] for one in records}
    rows, facts = load(prepare(CACHE, Size()))
    metrics = score_prompts(embedder, PROMPTS, rows, facts, Store(CACHE / "embeddings"))
    return {
        "name": name,
        "remark": remark,
        **{f"{kind}: image / text (%)": f"{share[kind, 'image']:.1f} / {share[kind, 'text']:.1f}" for kind in GATES},
        "gates": "met" if passes_gates(records) else "missed",
        **{f"hit@1 {prompt}": interval(metrics["prompts"][prompt]["groups"]["overall"]) for prompt in PROMPTS},
        "difference": interval(metrics["differences"]["none"]["hierarchical"]["overall"], signed=True),
        "weights": file_digest(Path(folder) / "model.safetensors")[:16],
        "chosen": "yes" if is_chosen else "no",
    }


def main() -> None:
    """Append one record."""
    folder, name, remark, *rest = sys.argv[1:]
    record = describe(Path(folder), name, remark, is_chosen=rest == ["chosen"])
    others = [one for one in read_json(BASE_MODELS, made_by="git checkout") if one["name"] != name]
    write_json(BASE_MODELS, [*others, record])


if __name__ == "__main__":
    main()
