"""Training: recipes, data, the network, and checkpoints."""
