"""A few faces with PyTorch's results, kept in the engine, so that whoever runs it can check it.

An engine is built here and run there: another GPU, another library, another precision of its
tensor cores. `runtime.verify` runs these faces and compares, with the limits stored beside them.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from export.engine_io import Io, Signature
from export.gate import Reference, feed
from train.data import denormalise
from train.landmarks import decode


def samples(known: Reference, signature: Signature) -> str:
    """Faces as text: base64 of a compressed NPZ, 0.8 MB for 8 faces in image I/O.

    Its arrays: the engine's input under its name; `gt` uint8 (N, 128, 128, 3); and PyTorch's
    outputs of the last step under their names: `face`, `landmarks`, `scores`, or `sr`, or `sr_3`
    and `heatmap_3`.

    Args:
        known: drawn faces only. Whoever has the engine has them.
    """
    last, maps = known.steps.sr[-1], known.steps.heatmaps[-1].numpy()
    arrays: dict[str, NDArray[np.generic]] = {
        signature.input: feed(known.faces.image, signature),
        "gt": known.faces.gt,
    }
    if signature.io is Io.IMAGE:
        arrays["face"] = denormalise(last)
        if signature.landmarks:
            points, scores = decode(maps)
            arrays |= {"landmarks": points, "scores": scores}
    elif signature.all_steps:
        step = signature.steps - 1
        arrays |= {f"sr_{step}": last.numpy()}
        if signature.landmarks:
            arrays |= {f"heatmap_{step}": maps}
    else:
        arrays["sr"] = last.numpy()
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(held.getvalue()).decode()
