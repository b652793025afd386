"""Supervised training of a LoRA adapter by mlx-lm's layers, on an Apple GPU or the CPU, watched like every training."""
