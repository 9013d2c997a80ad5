"""Scores, statistics, probes of the model, and the truth about negatives."""
