"""A few pictures with PyTorch's results, kept in the engine, so that whoever runs it can check it.

An engine is built here and run there: another GPU, another library, another precision of its
tensor cores. `runtime` runs these pictures and compares, with the limits stored beside them.
Some are no faces: half precisions that are right on faces have been wrong on such.
"""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from dic.landmarks import decode
from export.choices import Precision
from export.gate.agreement import Reference, decided
from export.gate.run import feed
from export.graph.interface import Io, Signature
from train.data.pairs import denormalise


def samples(known: Reference, signature: Signature, precision: Precision) -> str:
    """Pictures as text: base64 of a compressed NPZ, 0.3 to 0.7 MB in image I/O.

    Its arrays: the engine's input under its name; `gt` uint8 (F, 128, 128, 3) of the first F
    pictures, the faces; `decided` bool (N, K), the landmarks that lie somewhere; and PyTorch's
    outputs of the last step under their names: `face`, `landmarks`, `scores`, or `sr`, or `sr_3`
    and `heatmap_3`.

    Args:
        known: drawn faces only. Whoever has the engine has them.
        precision: of the engine; decides which landmarks are decided.
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
            arrays |= {"landmarks": points, "scores": scores, "decided": decided(maps, precision)}
    elif signature.all_steps:
        step = signature.steps - 1
        arrays |= {f"sr_{step}": last.numpy()}
        if signature.landmarks:
            arrays |= {f"heatmap_{step}": maps, "decided": decided(maps, precision)}
    else:
        arrays["sr"] = last.numpy()
    held = io.BytesIO()
    np.savez_compressed(held, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(held.getvalue()).decode()
