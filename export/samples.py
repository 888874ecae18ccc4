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

COUNT = 8  # half a megabyte in image I/O, less than 1 % of the full-size network


def samples(known: Reference, signature: Signature) -> str:
    """The first faces as text: base64 of a compressed NPZ.

    Its arrays: the engine's input under its name; `gt` uint8 (N, 128, 128, 3); and PyTorch's
    outputs of the last step under their names: `face`, `landmarks`, `scores`, or `sr` or `sr_3`.
    """
    some = slice(0, COUNT)
    last = known.steps.sr[-1][some]
    arrays: dict[str, NDArray[np.generic]] = {
        signature.input: feed(known.faces.image[some], signature),
        "gt": known.faces.gt[some],
    }
    if signature.io is Io.IMAGE:
        arrays["face"] = denormalise(last)
        if signature.landmarks:
            points, scores = decode(known.steps.heatmaps[-1][some].numpy())
            arrays |= {"landmarks": points, "scores": scores}
    else:
        arrays["sr" if not signature.all_steps else f"sr_{signature.steps - 1}"] = last.numpy()
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(held.getvalue()).decode()
