"""Does an engine compute here what PyTorch computed when it was exported?

An engine may run on another GPU, in another library, with other tensor cores than its export was
checked with. It carries a few faces with PyTorch's results, and the limits that its export was
held to; `load_engine` asks it once before it is trusted with anything else.
"""

from __future__ import annotations

import base64
import io
import json
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.engine import Engine, EngineError
from runtime.tensors import to_levels

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

CROP = 8  # pixels that PSNR leaves out at every edge, as the released evaluations do
LEVEL = 1 / 255  # pictures hold no smaller difference


@dataclass(frozen=True)
class Verification:
    """How far an engine's results are from PyTorch's, on its own samples.

    Attributes:
        error: largest difference of a face (black to white is 1), a score or a heatmap.
        psnr_loss: dB further from the true faces than PyTorch, the mean over the faces.
        landmarks: mean distance from PyTorch's, pixels; 0 where the engine gives none.
    """

    error: float
    psnr_loss: float
    landmarks: float


def verify(engine: Engine, quick: bool = False) -> Verification | None:
    """Run an engine's samples and hold the results against its limits.

    Args:
        quick: one face alone, and not its landmarks: where the export itself was checked, this
            finds damaged weights, and a peak that another processor rounds otherwise is none.

    Returns:
        how far it is off; None, and a warning, where the engine carries no samples.

    Raises:
        EngineError: further than its limits allow.
    """
    samples, limits = engine.metadata.rest.get("samples"), _limits(engine)
    if samples is None or limits is None:
        log.warning("%s: carries no samples; its results here are unverified", engine.path)
        return None
    try:
        with np.load(io.BytesIO(base64.b64decode(samples)), allow_pickle=False) as held:
            known = {name: held[name][: 1 if quick else None] for name in held.files}
        name = next(n for n in known if n == "face" or n.startswith("sr"))
        feed = {tensor.name: known[tensor.name] for tensor in engine.inputs}
        known["gt"]
    except Exception as error:  # damaged archives raise what they like
        what = str(error) or type(error).__name__
        raise EngineError(f"{engine.path}: its samples are damaged ({what})") from error
    try:
        given = _run(engine, feed)
    except Exception as error:  # as do devices: out of memory, no kernel, no library
        what = " ".join(str(error).split())[:200]
        raise EngineError(f"{engine.path}: {engine.backend} cannot run it: {what}") from error
    found = _compare(name, given, known)
    # A NaN is beyond every limit. One grey level is the least that two pictures differ by.
    least = LEVEL * 1.01 if name == "face" else 0.0
    beyond = []
    for what, value, unit in (
        ("error", found.error, ""),
        ("psnr", found.psnr_loss, " dB"),
        ("landmarks", found.landmarks, " px"),
    ):
        if quick and what == "landmarks":
            continue
        limit = max(limits.get(what, np.inf), least if what == "error" else 0.0)
        if not value <= limit:
            beyond.append(f"{what} by {value:.3g}{unit} (allowed {limit:.3g})")
    if beyond:
        raise EngineError(
            f"{engine.path}: {engine.backend} computes other faces than PyTorch: "
            f"{', '.join(beyond)}; the file is damaged, or made for another device: make it anew, "
            "or use another device"
        )
    log.info("%s: verified on %s: %s", engine.path, engine.device, found)
    return found


def _run(engine: Engine, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """In batches that the engine takes."""
    count = len(next(iter(feed.values())))
    size = engine.max_batch or count
    parts = [
        engine.run({name: array[start : start + size] for name, array in feed.items()})
        for start in range(0, count, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _limits(engine: Engine) -> dict[str, float] | None:
    try:
        limits = json.loads(engine.metadata.rest["export_error"])["limits"]
        return {name: float(limit) for name, limit in limits.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        return None


def _compare(
    name: str, given: dict[str, NDArray[Any]], known: dict[str, NDArray[Any]]
) -> Verification:
    ours, theirs = given[name], known[name]
    scale = LEVEL if name == "face" else 1.0
    error = float(np.abs(ours.astype(np.float64) - theirs).max()) * scale
    for other in known.keys() & given.keys() - {name, "landmarks"}:  # scores, or heatmaps
        error = np.maximum(error, np.abs(given[other].astype(np.float64) - known[other]).max())
    loss = _psnr(_levels(name, theirs), known["gt"]) - _psnr(_levels(name, ours), known["gt"])
    distance = 0.0
    if "landmarks" in known:
        distance = float(np.linalg.norm(given["landmarks"] - known["landmarks"], axis=-1).mean())
    return Verification(float(error), loss, distance)


def _levels(name: str, faces: NDArray[Any]) -> NDArray[Any]:
    """Faces as they are shown, (N, 128, 128, 3) in 0..255."""
    return (faces if name == "face" else to_levels(faces)).astype(np.float64)


def _psnr(faces: NDArray[Any], gt: NDArray[Any]) -> float:
    """Mean PSNR in dB over (N, H, W, 3) pictures."""
    inside = slice(CROP, -CROP)
    difference = faces[:, inside, inside] - gt[:, inside, inside].astype(np.float64)
    mse = np.maximum((difference**2).mean((1, 2, 3)), 1e-12)
    return float((10 * np.log10(255**2 / mse)).mean())
