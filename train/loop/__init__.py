"""A training run: its updates, its state, its processes, its validation."""
