"""Making the matrix's videos with the FFmpeg program, from samples that are computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from benchmarks.formats.videos.ffmpeg import ffmpeg
from benchmarks.formats.videos.scene import LONG, SHORT, samples, stored

COUNT = 6  # frames, unless times are given


@dataclass(frozen=True)
class Clip:
    """What a video is, and how it must be shown.

    Attributes:
        container: suffix of the file, without the dot.
        codec: FFmpeg's encoder.
        pixels: a key of `scene.LAYOUTS`.
        times: of its frames, in ticks.
        tick: seconds.
        rate: frames a second that the encoder is told.
        turn: a key of `scene.TURNS`.
        matrix, full: of its samples; see `scene.samples`.
        tagged: the file says so; otherwise players assume what is usual for its height.
        curve, primaries: further tags.
        options: of the encoder and the container.
        inputs: further inputs, as FFmpeg's arguments.
        maps: of streams, as FFmpeg's arguments.
        patch: changes the file.
        shown: numbers of the frames that are shown; None for all.
        shown_times: their times in seconds; None for `times`.
        told: what must be reported.
        refused: the reason why it is refused; empty if it is not.
        target: suffix of the result; empty for that of the file.
        lost: kinds of streams that the result's container cannot hold.
        aspect: width of a pixel over its height.
        moved: all streams may begin later by the same time.
    """

    container: str = "mp4"
    codec: str = "libx264"
    pixels: str = "yuv420p"
    times: Sequence[int] = tuple(range(COUNT))
    tick: Fraction = Fraction(1, 25)
    rate: Fraction = Fraction(25)
    turn: str = "upright"
    matrix: str = "bt470bg"
    full: bool = False
    tagged: bool = True
    curve: str = "unknown"
    primaries: str = "unknown"
    options: Sequence[str] = ()
    inputs: Sequence[str] = ()
    maps: Sequence[str] = ()
    patch: Callable[[Path], None] | None = None
    shown: Sequence[int] | None = None
    shown_times: Sequence[float] | None = None
    told: str = ""
    refused: str = ""
    target: str = ""
    lost: Sequence[str] = ()
    aspect: Fraction = Fraction(1)
    moved: bool = False

    @property
    def numbers(self) -> list[int]:
        """Of the frames that are shown."""
        return list(range(len(self.times))) if self.shown is None else list(self.shown)

    @property
    def seconds(self) -> list[float]:
        """Times of the frames that are shown."""
        if self.shown_times is not None:
            return list(self.shown_times)
        return [float(self.times[n] * self.tick) for n in self.numbers]


# Settings with which an encoder keeps colours to a level or two.
FINE: dict[str, tuple[str, ...]] = {
    "libx264": ("-crf", "8"),
    "libx265": ("-crf", "8", "-x265-params", "log-level=none"),
    "libvpx": ("-b:v", "0", "-crf", "4", "-qmin", "0", "-qmax", "8"),
    "libvpx-vp9": ("-b:v", "0", "-crf", "8"),
    "libaom-av1": ("-crf", "8", "-cpu-used", "8"),
    "mpeg4": ("-q:v", "2"),
    "mpeg2video": ("-q:v", "2"),
    "mpeg1video": ("-q:v", "2"),
    "mjpeg": ("-q:v", "2"),
    "libtheora": ("-q:v", "10"),
    "wmv2": ("-q:v", "2"),
    "flv": ("-q:v", "2"),
    "h263": ("-q:v", "2"),
}


def make(clip: Clip, path: Path, folder: Path) -> None:
    """Write a clip's video; `folder` has its further inputs."""
    frames = [
        samples(stored(n, clip.turn), clip.pixels, clip.matrix, clip.full)
        for n in range(len(clip.times))
    ]
    full = clip.full or clip.pixels.startswith(("yuvj", "gbr"))
    colours = [f"range={'full' if full else 'limited'}" if clip.tagged else "range=unknown"]
    if not clip.pixels.startswith(("gbr", "gray")) and clip.tagged:
        colours.append(f"colorspace={clip.matrix}")
    colours += [f"color_primaries={clip.primaries}", f"color_trc={clip.curve}"]
    at = "+".join(f"{time}*eq(N,{n})" for n, time in enumerate(clip.times))
    tick = f"{clip.tick.numerator}/{clip.tick.denominator}"
    view = f"settb={tick},setpts='{at}',setparams={':'.join(colours)},setsar={clip.aspect}"
    ffmpeg(
        *("-f", "rawvideo", "-pixel_format", clip.pixels, "-video_size", f"{LONG}x{SHORT}"),
        *("-framerate", clip.rate, "-color_range", "pc" if full else "tv", "-i", "-"),
        *clip.inputs,
        *(clip.maps or ("-map", "0:v")),
        *("-filter:v:0", view, "-fps_mode:v:0", "passthrough", "-enc_time_base:v:0", tick),
        *("-c:v:0", clip.codec, "-pix_fmt:v:0", clip.pixels, *FINE.get(clip.codec, ())),
        *clip.options,
        path,
        data=b"".join(frames),
        folder=folder,
    )
    if clip.patch is not None:
        clip.patch(path)
