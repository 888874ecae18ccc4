"""Mutated files, given to everything that reads files; `python -m benchmarks.fuzz` runs it."""
