"""Optimised inference of DIC engines. Needs NumPy, OpenCV and an engine's runtime, no PyTorch.

from runtime import FaceRestorer

with FaceRestorer() as restorer:  # or FaceRestorer("dic.onnx", device="cpu")
    for face in restorer("family.jpg"):  # or a picture, several, or an iterator of them
        face.image, face.landmarks, face.scores, face.box, face.matrix
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# A picture's header can promise any size, and memory is taken before the picture is read. OpenCV
# reads this when it is first imported; a limit set in the environment stands.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))

from runtime.engine import Engine, EngineError
from runtime.load import load_engine

if TYPE_CHECKING:
    from runtime.restore import Face, FaceRestorer

__all__ = ["Engine", "EngineError", "Face", "FaceRestorer", "load_engine"]


def __getattr__(name: str) -> Any:
    # NumPy and OpenCV take longest to import; --help must not wait for them.
    if name in ("Face", "FaceRestorer"):
        import runtime.restore

        return getattr(runtime.restore, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
