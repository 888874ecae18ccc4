"""The reports of a training run: progress, TensorBoard events, checkpoints, log, preview image."""
