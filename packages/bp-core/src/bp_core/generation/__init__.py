"""Answers of a model, through the same encoder as training."""
