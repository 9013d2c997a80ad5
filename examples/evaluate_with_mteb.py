"""Evaluate an embedder with mteb (pip install mteb; it is not among our dependencies)."""

from collections.abc import Iterable
from typing import Any

import mteb
import numpy as np
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

from g2e_lib.embedder import Embedder


class Wrapper(AbsEncoder):
    """Gives mteb's batches to an embedder; mteb's queries are queries, everything else is a target."""

    def __init__(self, embedder: Embedder, name: str) -> None:
        self.embedder = embedder
        self.mteb_model_meta = ModelMeta.create_empty({"name": name, "modalities": ["text", "image"]})

    def encode(self, inputs: Iterable[dict], *, prompt_type: PromptType | None = None, **_: Any) -> np.ndarray:  # noqa: ANN401
        """(N, D) float32 for batches with lists `text`, `image` or both."""
        items = []
        for batch in inputs:
            keys = [key for key in ("text", "image") if key in batch]
            items += [dict(zip(keys, row, strict=True)) for row in zip(*(batch[k] for k in keys), strict=True)]
        return self.embedder.encode(items, "query" if prompt_type == PromptType.query else "target")


if __name__ == "__main__":
    wrapper = Wrapper(Embedder.from_pretrained("Qwen/Qwen2-VL-2B-Instruct", images="paper_eval"), "org/name")
    print(mteb.evaluate(wrapper, mteb.get_tasks(["SugarCrepe", "STSBenchmark"]), cache=None))
