"""The papers' published numbers, as tables."""

import pandas as pd

from g2e_lib.project.config import PACKAGE

REFERENCE = PACKAGE / "project" / "reference"


def reference(name: str) -> pd.DataFrame:
    """A table of published numbers: "gen2embed_mmeb", "unime_mmeb", "unime_retrieval" or "mmeb_datasets"."""
    return pd.read_csv(REFERENCE / f"{name}.csv")
