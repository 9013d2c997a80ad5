"""Pre-training of the base model: generative data only."""
