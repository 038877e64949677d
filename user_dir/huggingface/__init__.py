"""Model directories from Hugging Face checkpoints, and back."""
