"""The kernels' structures, as NumPy dtypes with C's alignment.

Each has the name and the fields of a structure in a header beside this file.
"""

from __future__ import annotations

import numpy as np

POINTER, WIDE, INT, FLOAT, DOUBLE = "u8", "i8", "i4", "f4", "f8"


def _structure(*fields: tuple[str, object] | tuple[str, object, object]) -> np.dtype[np.void]:
    return np.dtype(list(fields), align=True)


FRAME = _structure(
    ("pixels", POINTER),
    ("stride", WIDE),
    ("width", INT),
    ("height", INT),
    ("channels", INT),
    ("depth", INT),
)
FADE = _structure(("inner", FLOAT), ("outer", FLOAT))

# Records in GPU memory, one per face or job.
CROP = _structure(
    ("matrix", DOUBLE, 6),
    ("piece", WIDE),
    *((name, INT) for name in ("x", "y", "size", "turned", "left", "top", "width", "height")),
)
RESIZE = _structure(("source", WIDE), ("target", WIDE), ("old", INT), ("size", INT))
MASK = _structure(
    ("compared", WIDE), ("size", INT), ("outlined", INT), ("opacity", FLOAT), ("unused", INT)
)
PASTE = _structure(
    ("inverse", DOUBLE, 6),
    *((name, INT) for name in ("x", "y", "size", "turned", "left", "top", "right", "bottom")),
)
PEAKS = _structure(("level", FLOAT), ("weight", FLOAT))

BLUR_TAPS = 7
# Arguments, one structure per kernel, passed by value.
ARGUMENTS = {
    "cut": _structure(("frame", FRAME), ("crops", POINTER), ("pieces", POINTER)),
    "resize": _structure(("sources", POINTER), ("targets", POINTER), ("jobs", POINTER)),
    "project": _structure(
        ("faces", POINTER),
        ("targets", POINTER),
        ("reduced", POINTER),
        ("jobs", POINTER),
        ("side", INT),
        ("lanczos", INT),
    ),
    "mask": _structure(
        ("masks", POINTER),
        ("photos", POINTER),
        ("restored", POINTER),
        ("spans", POINTER),
        ("jobs", POINTER),
        ("side", INT),
        ("difference", FADE),
        ("feather", FADE),
        ("outline", FADE),
        ("blur", FLOAT, BLUR_TAPS),
    ),
    "peaks": _structure(
        ("faces", POINTER), ("masks", POINTER), ("peaks", POINTER), ("side", INT), ("unused", INT)
    ),
    "enlarge": _structure(("source", FRAME), ("target", FRAME)),
    "paste": _structure(
        ("picture", FRAME),
        ("faces", POINTER),
        ("masks", POINTER),
        ("peaks", POINTER),
        ("jobs", POINTER),
        ("count", INT),
        ("side", INT),
    ),
    "landmarks": _structure(
        ("points", POINTER),
        ("matrices", POINTER),
        ("placed", POINTER),
        ("count", INT),
        ("unused", INT),
    ),
}
