"""Frames as players show them: turned and mirrored by the display matrix, and progressive."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.console import UserError

try:
    from av.filter import Graph
    from av.sidedata.sidedata import Type
except ModuleNotFoundError as error:
    raise UserError("videos need PyAV; pip install 'dic-toolkit[video]'") from error

# One frame for each; frames that are not marked as interlaced pass unchanged.
DEINTERLACE = "mode=send_frame:parity=auto:deint=interlaced"


@dataclass(frozen=True)
class Orientation:
    """How the stored picture is shown: transposed first, then mirrored."""

    transposed: bool = False
    across: bool = False
    down: bool = False

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W, 3) as stored → upright."""
        pixels = pixels.swapaxes(0, 1) if self.transposed else pixels
        return pixels[:: -1 if self.down else 1, :: -1 if self.across else 1]


def orientation(frame: Any) -> Orientation:
    """The orientation of a frame by its display matrix, to the nearest quarter turn.

    The matrix (ISO 14496-12, 8.3.2) maps stored to shown pixels: x' = a x + c y, y' = b x + d y.
    """
    stored = frame.side_data.get(Type.DISPLAYMATRIX)
    if stored is None:
        return Orientation()
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(stored, np.int32))
    if abs(b) > abs(a):
        return Orientation(True, c < 0, b < 0)
    return Orientation(False, a < 0, d < 0)


class Deinterlacer:
    """FFmpeg's bwdif on videos that have interlaced frames; others pass at once.

    Attributes:
        used: a frame was interlaced.
    """

    def __init__(self) -> None:
        self.used = False
        self._graph: Any = None

    def __call__(self, frame: Any | None) -> Iterator[Any]:
        """The frames that are ready once a frame is given; None gives the last ones."""
        if frame is not None and frame.interlaced_frame:
            self.used = True
        if not self.used:
            if frame is not None:
                yield frame
            return
        if self._graph is None:
            if frame is None:
                return
            self._graph = Graph()
            source = _source(self._graph, frame)
            middle = self._graph.add("bwdif", DEINTERLACE)
            sink = self._graph.add("buffersink")
            source.link_to(middle)
            middle.link_to(sink)
            self._graph.configure()
        self._graph.push(frame)
        while True:
            try:
                yield self._graph.pull()
            except (BlockingIOError, EOFError):
                return


def _source(graph: Any, frame: Any) -> Any:
    return graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base,
    )
