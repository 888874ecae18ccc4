"""TensorRT and TensorRT-RTX plans, run on an NVIDIA GPU through PyCUDA."""
