"""The gate: an engine is put in place only where it computes what PyTorch computes.

Two questions are asked of every graph (`check`), each by a file of its own:

- `blocks`: is every block of every step right? Each is given what the graph's earlier blocks gave,
  in float64, so that an error shows where it is made and is not hidden by what it grows into.
- `agreement`: is the whole as good as PyTorch on faces and on pictures that are none? What may be
  lost depends on the precision (`limits`).
"""
