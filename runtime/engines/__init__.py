"""Engines: their interface, the libraries that run them, and verification against PyTorch."""
