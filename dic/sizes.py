"""The sizes of faces and heatmaps, in pixels. Must not import NumPy: `--help` imports this file."""

SCALE = 8
LQ_SIZE = 16
SR_SIZE = LQ_SIZE * SCALE
HEATMAP_SIZE = 32
HEATMAP_STRIDE = 4  # face pixels per heatmap cell; cell [i, j] corresponds to pixel (x=4j, y=4i)
