"""Verification: does an engine reproduce PyTorch's results on this machine?

The export is checked on one machine, but the engine may run on other hardware and in another
library. It therefore embeds sample inputs with PyTorch's outputs (the reference outputs) and the
limits that its export met. `load_engine` runs them once, before the engine is used.
"""

from __future__ import annotations

import base64
import io
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dic.documents import parse_json
from dic.engine_file import EngineError
from dic.landmarks import decode
from dic.metrics import mean_psnr, rms
from dic.pixels import to_levels
from runtime.engines.contract import Engine

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

# Rounding to uint8 can turn a tiny difference into one grey level. This RMS allows it in one pixel
# of a hundred.
ROUNDING = 0.1 / 255


@dataclass(frozen=True)
class Verification:
    """Differences between an engine's results and the reference outputs on its embedded samples.

    Attributes:
        error: largest root-mean-square difference of any output on any sample, relative to the
            output's range (255 for uint8 faces, otherwise its largest absolute value).
        psnr_loss: PyTorch's mean PSNR against the ground-truth faces minus the engine's, in dB.
        landmarks: mean distance between landmarks in pixels, over those whose heatmap has one
            clear peak; 0 without landmarks.
        levels: largest root-mean-square difference of the face on any sample, in grey levels.
    """

    error: float
    psnr_loss: float
    landmarks: float
    levels: float


def verify(engine: Engine, quick: bool = False) -> Verification | None:
    """Run an engine's embedded samples and check the differences against its limits.

    Args:
        quick: run one face only and skip the landmark limit. Detects damaged weights where the
            export itself was checked; a heatmap peak that this CPU rounds differently is accepted.

    Returns:
        the measured differences; None, with a warning, if the engine has no embedded samples.

    Raises:
        EngineError: the samples or limits are damaged, the engine cannot run them, its results
            are NaN or infinite, or a difference exceeds its limit.
    """
    encoded = engine.metadata.rest.get("samples")
    if encoded is None:
        log.warning("%s: has no embedded samples; its results are unverified", engine.path)
        return None
    limits = _limits(engine)
    samples = _samples(engine, encoded)
    if quick:
        samples = {name: array[:1] for name, array in samples.items()}
    face = next(name for name in samples if _is_face(name))
    try:
        results = _run(engine, {tensor.name: samples[tensor.name] for tensor in engine.inputs})
    # What libraries raise on a device that is out of memory, or lacks a kernel or a library.
    except (EngineError, ValueError, RuntimeError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EngineError(f"{engine.path}: {engine.backend} cannot run it: {reason}") from error
    if not all(np.isfinite(array).all() for array in results.values()):
        raise EngineError(
            f"{engine.path}: {engine.backend} returns NaN or infinite values; use another --device"
        )
    measured = _compare(face, results, samples)
    exceeded = []
    for what, value, unit in (
        ("error", measured.error, ""),
        ("psnr", measured.psnr_loss, " dB"),
        ("landmarks", measured.landmarks, " px"),
        ("levels", measured.levels, " grey levels"),
    ):
        if quick and what == "landmarks":
            continue
        rounding = ROUNDING if what == "error" and face == "face" else 0.0
        limit = max(limits.get(what, np.inf), rounding)
        if not value <= limit:  # true for NaN as well
            exceeded.append(f"{what} by {value:.3g}{unit} (allowed {limit:.3g})")
    if exceeded:
        raise EngineError(
            f"{engine.path}: results of {engine.backend} differ from PyTorch's: "
            f"{', '.join(exceeded)}; the file is damaged or unsuited to this device: export it "
            "again, or use another --device"
        )
    log.info("%s: verified on %s: %s", engine.path, engine.device, measured)
    return measured


def _is_face(name: str) -> bool:
    return name == "face" or name.startswith("sr")


def _samples(engine: Engine, encoded: str) -> dict[str, NDArray[Any]]:
    """Decode the embedded samples: inputs, reference outputs and ground-truth faces by name."""
    try:
        with np.load(io.BytesIO(base64.b64decode(encoded)), allow_pickle=False) as archive:
            samples = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib and NumPy raise many types for damaged data
        reason = str(error) or type(error).__name__
        raise EngineError(
            f"{engine.path}: its embedded samples are damaged ({reason}); export it again"
        ) from error
    missing = {"gt", *(tensor.name for tensor in engine.inputs)} - samples.keys()
    if missing or not any(map(_is_face, samples)):
        names = ", ".join(sorted(missing)) or "face"
        raise EngineError(
            f"{engine.path}: its embedded samples are damaged (no {names}); export it again"
        )
    return samples


def _run(engine: Engine, feed: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Run any number of samples, in batches of at most `max_batch`."""
    count = len(next(iter(feed.values())))
    size = engine.max_batch or count
    parts = [
        engine.run({name: array[start : start + size] for name, array in feed.items()})
        for start in range(0, count, size)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _limits(engine: Engine) -> dict[str, float]:
    try:
        entries = parse_json(engine.metadata.rest["export_error"])["limits"]
        limits = {name: float(limit) for name, limit in entries.items()}
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as error:
        raise EngineError(f"{engine.path}: its limits are damaged; export it again") from error
    if not limits:
        raise EngineError(f"{engine.path}: its limits are damaged; export it again")
    return limits


def _compare(
    face: str, results: dict[str, NDArray[Any]], samples: dict[str, NDArray[Any]]
) -> Verification:
    """Compare results with the reference outputs; the first `len(gt)` samples are faces."""
    faces = len(samples["gt"])
    error = 0.0
    for name in samples.keys() & results.keys() - {"landmarks"}:  # face or sr, scores, heatmaps
        scale = 255.0 if name == "face" else max(float(np.abs(samples[name]).max()), 1e-30)
        difference = rms(results[name], samples[name]) / scale
        error = float(np.maximum(error, difference.max()))  # propagates NaN, which max() may not
    ours, theirs = (a[face] if face == "face" else to_levels(a[face]) for a in (results, samples))
    loss = mean_psnr(theirs[:faces], samples["gt"]) - mean_psnr(ours[:faces], samples["gt"])
    levels = float(rms(ours, theirs).max())
    distance = 0.0
    maps = next((name for name in samples if name.startswith("heatmap")), None)
    if "landmarks" in samples or maps:
        points, wanted = (
            a["landmarks"] if maps is None else decode(a[maps])[0] for a in (results, samples)
        )
        distances = np.linalg.norm(points - wanted, axis=-1)[:faces]
        decided = samples.get("decided", np.ones(distances.shape, bool))[:faces]
        distance = float(distances[decided].mean()) if decided.any() else 0.0
    return Verification(error, loss, distance, levels)
