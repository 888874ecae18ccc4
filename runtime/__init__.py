"""Optimised inference of DIC engines. Needs NumPy, OpenCV and an engine's runtime, no PyTorch.

from runtime import FaceRestorer

with FaceRestorer() as restorer:  # or FaceRestorer("dic.onnx", device="cpu")
    for face in restorer("family.jpg"):  # or a picture, several, or an iterator of them
        face.image, face.landmarks, face.scores, face.box, face.matrix
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

# A picture's header can promise any size, and memory is taken before the picture is read. OpenCV
# reads this when it is first imported; a limit set in the environment stands.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**28))

from runtime.engine import Engine, EngineError
from runtime.load import load_engine

if TYPE_CHECKING:
    from runtime.blend import Interpolation
    from runtime.detect import Detector, HaarDetector, YuNetDetector
    from runtime.frame import Crop
    from runtime.images import ImageError, Picture
    from runtime.restore import Face, FaceRestorer, RestoredPhoto

__all__ = [
    "Crop",
    "Detector",
    "Engine",
    "EngineError",
    "Face",
    "FaceRestorer",
    "HaarDetector",
    "ImageError",
    "Interpolation",
    "Picture",
    "RestoredPhoto",
    "YuNetDetector",
    "load_engine",
]
# NumPy and OpenCV take longest to import; --help must not wait for them.
_LATER = {
    "Crop": "frame",
    "Detector": "detect",
    "Face": "restore",
    "FaceRestorer": "restore",
    "HaarDetector": "detect",
    "ImageError": "images",
    "Interpolation": "blend",
    "Picture": "images",
    "RestoredPhoto": "restore",
    "YuNetDetector": "detect",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"runtime.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
