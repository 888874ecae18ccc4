"""The contenders: the PyTorch reference, engines, and peers."""
