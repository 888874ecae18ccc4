"""The graph: unrolled, rewritten, lowered, quantised, its nodes named by step and block."""
