"""A plan's metadata: from the JSON file beside it, or inferred from its tensors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dic.engine_file import METADATA_PREFIX, Metadata, TensorInfo, read_sidecar, sidecar
from dic.sizes import LQ_SIZE

log = logging.getLogger(__name__)


def described_plan(path: Path, plan: bytes) -> dict[str, Any] | None:
    """Return the content of the JSON file beside a plan; None, with a warning, if there is none.

    Args:
        plan: content of the plan.

    Raises:
        EngineError: the JSON file is damaged or belongs to another plan.
    """
    described = read_sidecar(path, plan)
    if described is None:
        log.warning(
            "%s: has no %s beside it, so nothing says who built it: a plan is a program that runs "
            "with your rights; load it only if you trust its origin. Its results are unverified",
            path,
            sidecar(path).name,
        )
    return described


def allows_host_code(described: Mapping[str, Any] | None) -> bool:
    """Whether the JSON file says that we built a version-compatible plan.

    Only these contain code for the host: the lean runtime of the version that built them.
    """
    return bool(described and described["plan"].get("version_compatible"))


def plan_metadata(
    path: Path,
    described: Mapping[str, Any] | None,
    inputs: tuple[TensorInfo, ...],
    outputs: tuple[TensorInfo, ...],
) -> Metadata:
    """Return a plan's metadata: as its JSON file says, or inferred from its tensors.

    Args:
        described: content of the JSON file, None without one.

    Raises:
        EngineError: the metadata are damaged or of an unknown version.
    """
    if described is None:
        return _inferred(path, inputs, outputs)
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in described.items()}
    return Metadata.parse(path, _prefixed(texts))


def _prefixed(entries: dict[str, str]) -> dict[str, str]:
    return {f"{METADATA_PREFIX}{key}": value for key, value in entries.items()}


def _inferred(
    path: Path, inputs: tuple[TensorInfo, ...], outputs: tuple[TensorInfo, ...]
) -> Metadata:
    """Metadata as far as tensor names and shapes determine it; precision stays unknown."""
    image = inputs[0].name == "image"
    sizes = {tensor.name: tensor.shape for tensor in outputs}
    faces = [shape for name, shape in sizes.items() if name == "face" or name.startswith("sr")]
    side = next((shape[1 if image else 2] for shape in faces), None) or LQ_SIZE
    marks = next((s for n, s in sizes.items() if n == "scores" or n.startswith("heatmap")), ())
    entries = {
        "format_version": "1",
        "io": "image" if image else "tensor",
        "steps": str(sum(name.startswith("sr_") for name in sizes) or 0),
        "precision": "unknown",
        "target": "gpu",
        "landmarks": str(marks[1] if len(marks) in (2, 4) else 0),
        "scale": str(side // LQ_SIZE),
    }
    return Metadata.parse(path, _prefixed(entries))
