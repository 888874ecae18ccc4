"""Generated files of every layout, each read right or refused by name: `benchmarks.matrix`."""
