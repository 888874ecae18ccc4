"""Measuring: latency, accuracy, footprint, operators, the machine and its limits."""
