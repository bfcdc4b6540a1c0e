"""Suites, each a fixed set of items scored on a model, and what turns their rows into a summary."""
