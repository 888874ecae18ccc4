"""What of a video's colours is not supported, not kept, or not converted by FFmpeg."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from av.video.reformatter import ColorRange
from numpy.typing import NDArray

# Numbers of ITU-T H.273, which are FFmpeg's AVColorTransferCharacteristic and AVColorSpace.
HDR = {16: "PQ", 18: "HLG"}
# FFmpeg's conversion to RGB treats these as BT.601.
UNCONVERTED = {
    8: "YCgCo",
    10: "BT.2020 with constant luminance",
    11: "Y'D'zD'x",
    12: "chromaticity-derived",
    13: "chromaticity-derived with constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}


def colour_fault(context: Any) -> str:
    """Why the colours of a codec context cannot be read, as the rest of "it …"; else empty."""
    if (curve := HDR.get(int(context.color_trc or 0))) is not None:
        return f"is HDR video ({curve})"
    if (matrix := UNCONVERTED.get(int(context.colorspace or 0))) is not None:
        return f"has the colour matrix {matrix}"
    return ""


def reductions(stream: Any) -> Iterator[str]:
    """What frames of 8 bits and three channels do not keep of a video stream."""
    layout = stream.codec_context.format
    if layout is None:
        return
    bits = max(component.bits for component in layout.components)
    if bits > 8:
        yield "reduced to 8 bits a channel"
    # In WebM, transparency is a second picture beside the frame's (`alpha_mode`).
    if any(component.is_alpha for component in layout.components) or "1" in (
        stream.metadata.get("alpha_mode"),
        stream.metadata.get("ALPHA_MODE"),
    ):
        yield "its transparency is not kept"


def expanded(levels: NDArray[np.uint8], frame: Any) -> NDArray[np.uint8]:
    """Frames as FFmpeg converts them, with grey of limited range expanded to 0 to 255.

    FFmpeg takes every grey picture for one of full range. By H.273, equation 38, a picture of
    limited range has black at 16 and white at 235 (times a power of two with more bits).

    Args:
        levels: (H, W, 3) uint8.
        frame: that it was converted from.
    """
    if not frame.format.name.startswith("gray") or frame.color_range != ColorRange.MPEG:
        return levels
    bits = frame.format.components[0].bits
    samples = np.arange(256) * (2**bits - 1) / 255
    step = 2 ** (bits - 8)
    wide = (samples - 16 * step) * 255 / (219 * step)
    return np.clip(np.rint(wide), 0, 255).astype(np.uint8)[levels]
