"""Optimised inference of DIC engines. Needs NumPy, OpenCV and an engine's runtime, no PyTorch.

from runtime import FaceRestorer

with FaceRestorer() as restorer:  # or FaceRestorer("dic.onnx", device="cpu")
    for face in restorer("family.jpg"):  # or a picture, several, or an iterator of them
        face.image, face.landmarks, face.scores, face.box, face.matrix
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from dic.engine_file import EngineError
from runtime.engines.contract import Engine
from runtime.engines.load import load_engine

if TYPE_CHECKING:
    from runtime.faces.crop import Crop
    from runtime.faces.detect import Detector, DetectorError, YuNetDetector
    from runtime.faces.face import Face
    from runtime.faces.options import Interpolation, PhotoOptions
    from runtime.faces.restore import RestoredPhoto
    from runtime.pictures.header import ImageError
    from runtime.pictures.picture import Picture
    from runtime.restorer import FaceRestorer
    from runtime.video.reader import VideoError
    from runtime.video.restore import NoFaceError, RestoredVideo

# NumPy and OpenCV take longest to import; --help must not wait for them.
_LATER = {
    "Crop": "faces.crop",
    "Detector": "faces.detect",
    "Face": "faces.face",
    "FaceRestorer": "restorer",
    "DetectorError": "faces.detect",
    "ImageError": "pictures.header",
    "Interpolation": "faces.options",
    "NoFaceError": "video.restore",
    "PhotoOptions": "faces.options",
    "Picture": "pictures.picture",
    "RestoredPhoto": "faces.restore",
    "RestoredVideo": "video.restore",
    "VideoError": "video.reader",
    "YuNetDetector": "faces.detect",
}
__all__ = [
    "Crop",
    "Detector",
    "DetectorError",
    "Engine",
    "EngineError",
    "Face",
    "FaceRestorer",
    "ImageError",
    "Interpolation",
    "NoFaceError",
    "PhotoOptions",
    "Picture",
    "RestoredPhoto",
    "RestoredVideo",
    "VideoError",
    "YuNetDetector",
    "load_engine",
]


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(importlib.import_module(f"runtime.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
