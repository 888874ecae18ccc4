"""The sizes of faces and heatmaps. Without NumPy: a command's --help imports this."""

SCALE = 8
LQ_SIZE = 16
SR_SIZE = LQ_SIZE * SCALE
HEATMAP_SIZE = 32
HEATMAP_STRIDE = 4  # a heatmap cell is 4 pixels of the face; cell (i, j) stands for pixel (4j, 4i)
