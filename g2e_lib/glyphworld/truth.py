"""The truth about GlyphWorld's training subsets: is a target in truth a right answer to a query?"""

import json
from pathlib import Path

from g2e_lib.glyphworld.benchmark import TRAIN_FOLDER, TRUTH
from g2e_lib.glyphworld.world.scenes import Meaning, matches, meaning_from_record
from g2e_lib.project.config import file_digest, fingerprint
from g2e_lib.project.fingerprint import code_fingerprint


class Judge:
    """Tells whether a target is a right answer to a query of a training subset; ValueError without a recorded truth."""

    def __init__(self, root: Path, subset: str) -> None:
        path = root / TRAIN_FOLDER / subset / TRUTH
        if not path.is_file():
            raise ValueError(f"{path} does not exist: only GlyphWorld's training subsets have a recorded truth")
        self.identity = fingerprint([file_digest(path), code_fingerprint("glyphworld.truth")])
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        self.queries, self.targets = (
            [meaning_from_record(one[side]) for one in records] for side in ("query", "target")
        )
        self._known: dict[tuple[Meaning, Meaning], bool] = {}

    def is_right(self, query: int, other: int, of: "Judge | None" = None) -> bool:
        """Whether the positive of row `other`, of the subset that `of` judges (None: this), is right for `query`."""
        pair = self.queries[query], (of or self).targets[other]
        if pair not in self._known:
            self._known[pair] = matches(*pair)
        return self._known[pair]
