"""Build the graph: unroll, rewrite for CPUs, lower the precision, quantise, name the nodes."""
