"""A study: which methods on which data, run once each, compared how."""
