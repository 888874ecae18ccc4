"""Build TensorRT plans with TensorRT or TensorRT-RTX."""
