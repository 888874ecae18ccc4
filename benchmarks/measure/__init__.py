"""Measurements: latency, accuracy, start and memory, operators, the machine and its limits."""
