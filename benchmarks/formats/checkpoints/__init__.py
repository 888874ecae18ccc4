"""Checkpoints of every layout, type of tensors, wrapper and format."""
