"""GlyphWorld: a small visual world with exact meanings, its benchmark, and the base model trained on it."""
