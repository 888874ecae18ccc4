"""The training loop: updates, the saved state, distributed processes, validation."""
