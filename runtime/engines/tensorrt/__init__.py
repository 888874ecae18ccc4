"""Engines run by TensorRT or TensorRT-RTX: plans, on an NVIDIA GPU, through PyCUDA."""
