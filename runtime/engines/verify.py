"""Does an engine compute here what PyTorch computed when it was exported?

An engine may run on another GPU, in another library, with other tensor cores than its export was
checked with. It carries a few pictures with PyTorch's results, and the limits that its export was
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

from dic.contract import to_levels
from dic.engine_file import EngineError
from dic.landmarks import decode
from dic.metrics import mean_psnr
from runtime.engines.contract import Engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Rounding to grey levels puts neighbouring values a level apart: in one pixel of a hundred at most.
ROUNDING = 0.1 / 255


@dataclass(frozen=True)
class Verification:
    """How far an engine's results are from PyTorch's, on its own samples.

    Attributes:
        error: root mean square of an output's difference on the picture that is furthest off, as
            a share of its scale: black to white, or the largest value of any other output.
        psnr_loss: dB further from the true faces than PyTorch, the mean over the faces.
        landmarks: mean distance from PyTorch's, pixels, of those that lie somewhere; 0 where the
            engine gives none.
        levels: root mean square of the difference on the picture that is furthest off, grey
            levels.
    """

    error: float
    psnr_loss: float
    landmarks: float
    levels: float


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
    samples = engine.metadata.rest.get("samples")
    if samples is None:
        log.warning("%s: carries no samples; its results here are unverified", engine.path)
        return None
    limits = _limits(engine)
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
    if not all(np.isfinite(array).all() for array in given.values()):
        raise EngineError(f"{engine.path}: {engine.backend} gives NaN or infinite values")
    found = _compare(name, given, known)
    beyond = []
    for what, value, unit in (
        ("error", found.error, ""),
        ("psnr", found.psnr_loss, " dB"),
        ("landmarks", found.landmarks, " px"),
        ("levels", found.levels, " grey levels"),
    ):
        if quick and what == "landmarks":
            continue
        least = ROUNDING if what == "error" and name == "face" else 0.0
        limit = max(limits.get(what, np.inf), least)
        if not value <= limit:  # a NaN is beyond every limit
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


def _limits(engine: Engine) -> dict[str, float]:
    try:
        limits = json.loads(engine.metadata.rest["export_error"])["limits"]
        found = {name: float(limit) for name, limit in limits.items()}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise EngineError(f"{engine.path}: its limits are damaged; export it anew") from error
    if not found:
        raise EngineError(f"{engine.path}: its limits are damaged; export it anew")
    return found


def _compare(
    name: str, given: dict[str, NDArray[Any]], known: dict[str, NDArray[Any]]
) -> Verification:
    faces = len(known["gt"])
    error = 0.0
    for other in known.keys() & given.keys() - {"landmarks"}:  # a face, scores, heatmaps
        scale = 255.0 if other == "face" else max(float(np.abs(known[other]).max()), 1e-30)
        off = _rms(given[other].astype(np.float64) - known[other]) / scale
        error = float(np.maximum(error, off.max()))  # a NaN stays one
    ours, theirs = (a[name] if name == "face" else to_levels(a[name]) for a in (given, known))
    loss = mean_psnr(theirs[:faces], known["gt"]) - mean_psnr(ours[:faces], known["gt"])
    levels = float(_rms(ours.astype(np.float64) - theirs).max())
    distance = 0.0
    maps = next((key for key in known if key.startswith("heatmap")), None)
    if "landmarks" in known or maps:
        points, wanted = (
            a["landmarks"] if maps is None else decode(a[maps])[0] for a in (given, known)
        )
        distances = np.linalg.norm(points - wanted, axis=-1)[:faces]
        decided = known.get("decided", np.ones(distances.shape, bool))[:faces]
        distance = float(distances[decided].mean()) if decided.any() else 0.0
    return Verification(error, loss, distance, levels)


def _rms(difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): root mean square of each picture's values."""
    values = tuple(range(1, difference.ndim))
    result: NDArray[np.float64] = np.sqrt((difference**2).mean(axis=values))
    return result
