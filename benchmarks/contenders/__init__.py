"""What is measured: engines, PyTorch, and what others make of the same network."""
