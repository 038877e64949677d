"""Trained checkpoints at work: predicting, summarising, probing."""
