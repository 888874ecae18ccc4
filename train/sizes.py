"""The sizes of faces. In a module of their own: who draws faces needs no PyTorch."""

SCALE = 8
LQ_SIZE = 16
SR_SIZE = LQ_SIZE * SCALE
