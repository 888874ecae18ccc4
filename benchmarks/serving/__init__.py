"""Load, soak and fuzz tests of the server; `python -m benchmarks.serve` runs them."""
