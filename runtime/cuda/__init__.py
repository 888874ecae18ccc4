"""CUDA kernels for what happens to frames around the engine; see docs/how/gpu.md."""
