"""Engines: what one is, what runs it, and whether it computes what PyTorch computed."""
