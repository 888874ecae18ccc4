"""Embedded samples: a few pictures with PyTorch's reference outputs, stored in the engine.

An engine may run on another GPU, library or tensor-core precision than it was checked with.
`runtime.engines.verify` runs the samples there and compares, by the limits in the metadata.
Some samples are not faces: half precisions can fail on these although they are right on faces.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from dic.landmarks import decode
from export.choices import Precision
from export.gate.agreement import Reference, clear_peaks
from export.gate.run import feed
from export.graph.interface import Io, Signature
from train.data.pairs import denormalise


def samples(known: Reference, signature: Signature, precision: Precision) -> str:
    """Encode samples as text: base64 of a compressed NPZ, 0.3 to 0.7 MB with image I/O.

    Its arrays: the engine's input under its name; `gt`, (F, 128, 128, 3) uint8 RGB, the ground
    truth of the first F pictures; `decided`, (N, K) bool, the landmarks whose heatmap has a clear
    peak; and PyTorch's outputs of the last step under their names: `face`, `landmarks`, `scores`,
    or `sr`, or `sr_3` and `heatmap_3`.

    Args:
        known: pictures and PyTorch's outputs; they become readable by everyone who has the engine.
        precision: the engine's, for `clear_peaks`.
    """
    last, maps = known.steps.sr[-1], known.steps.heatmaps[-1].numpy()
    arrays: dict[str, NDArray[np.generic]] = {
        signature.input: feed(known.pictures.image, signature),
        "gt": known.pictures.gt,
    }
    if signature.io is Io.IMAGE:
        arrays["face"] = denormalise(last)
        if signature.landmarks:
            points, scores = decode(maps)
            arrays |= {
                "landmarks": points,
                "scores": scores,
                "decided": clear_peaks(maps, precision),
            }
    elif signature.all_steps:
        step = signature.steps - 1
        arrays |= {f"sr_{step}": last.numpy()}
        if signature.landmarks:
            arrays |= {f"heatmap_{step}": maps, "decided": clear_peaks(maps, precision)}
    else:
        arrays["sr"] = last.numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(buffer.getvalue()).decode()
