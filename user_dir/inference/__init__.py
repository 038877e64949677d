"""Trained checkpoints at work: predicting, averaging, summarising, probing."""
