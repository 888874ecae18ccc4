"""A simulated plan: a real plan's first four bytes, a JSON header, and the ONNX file itself."""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

MAGICS = {"tensorrt": b"ptrt", "tensorrt_rtx": b"vtrt"}
HEADER_SIZE = 64  # bytes that `get_engine_validity` needs, as TensorRT-RTX 1.7 says
VERSION = "1.7.1"


@dataclass(frozen=True)
class SimulatedPlan:
    """What a plan says of itself.

    Attributes:
        onnx: the ONNX file that it computes.
        module: the library that built it.
        batch: smallest, best and largest batch of each profile.
        version: of that library.
        capability: the only GPUs that it runs on; None for all.
        host_code: contains code for the host, as version-compatible plans do.
        workspace: bytes of GPU memory that a context needs.
    """

    onnx: bytes
    module: str = "tensorrt_rtx"
    batch: tuple[tuple[int, int, int], ...] = ((1, 2, 4),)
    version: str = VERSION
    capability: tuple[int, int] | None = None
    host_code: bool = False
    workspace: int = 4096

    def to_bytes(self) -> bytes:
        header = json.dumps({k: v for k, v in asdict(self).items() if k != "onnx"}).encode()
        sizes = struct.pack("<4sII", MAGICS[self.module], len(header), len(self.onnx))
        return sizes.ljust(HEADER_SIZE, b"\0") + header + self.onnx

    @classmethod
    def from_bytes(cls, plan: bytes) -> Self | None:
        """The plan; None if it is damaged."""
        if len(plan) < HEADER_SIZE:
            return None
        magic, length, size = struct.unpack_from("<4sII", plan)
        if magic not in MAGICS.values() or len(plan) != HEADER_SIZE + length + size:
            return None
        entries: dict[str, Any] = json.loads(plan[HEADER_SIZE : HEADER_SIZE + length])
        made = cls(plan[HEADER_SIZE + length :], **entries)
        return replace(
            made,
            batch=tuple((int(a), int(b), int(c)) for a, b, c in made.batch),
            capability=made.capability and (made.capability[0], made.capability[1]),
        )
