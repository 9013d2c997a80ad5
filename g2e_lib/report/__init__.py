"""Style, tables, figures, claims and pages, from stored results only; no torch."""
