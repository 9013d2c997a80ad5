"""Configuration, store, provenance, and the notebook runner."""
