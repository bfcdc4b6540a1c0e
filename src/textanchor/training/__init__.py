"""Adapt a model on the Hugging Face Trainer: what is trained, sequences, checkpoints, audit, checked export."""
