"""Faulty inputs of every verb, made from a kind and a seed; `tests/faults/corpus.yaml` lists those that are tried."""
