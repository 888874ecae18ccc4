"""The gate: an ONNX file is written only if it computes what PyTorch computes.

`check` makes two comparisons of every graph:

- `blocks`: every block of every step. The reference block runs in float64 on the outputs of the
  graph's earlier blocks, so an error is located in the block that makes it.
- `agreement`: the whole graph, on faces and on pictures that are not faces. The limits depend on
  the precision (`limits`).
"""
