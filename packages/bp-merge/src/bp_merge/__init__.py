"""Merge math for LoRA adapters and checkpoints, without torch."""
