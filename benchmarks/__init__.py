"""Latency and accuracy of engines, compared with the PyTorch reference."""
