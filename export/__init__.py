"""From checkpoints to engines."""

import os

# ONNX Runtime 1.32 reports its use to its maker, and keeps an identifier in the home folder,
# unless this is set before it is imported. Exporting should tell nobody.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
