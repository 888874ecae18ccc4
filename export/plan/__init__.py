"""TensorRT plans: the two libraries that build them, and the building."""
