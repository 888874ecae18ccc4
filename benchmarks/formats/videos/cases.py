"""The matrix's videos: codecs, times, edit lists, rotations and colours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

from benchmarks.formats.videos import edits
from benchmarks.formats.videos.clips import Clip
from benchmarks.formats.videos.scene import LAYOUTS

NO_B = ("-bf", "0")
CUT = ("-g", "8", *NO_B, "-video_track_timescale", "600", "-movie_timescale", "1000")
LONGER = tuple(range(24))
SOUND = ("-f", "lavfi", "-i", "sine=440:r=48000:d=0.96")
WITH_SOUND = ("-map", "0:v", "-map", "1:a")
UNEVEN = (0, 20, 30, 90, 100, 105, 300, 310)
EIGHT, ALPHA = "reduced to 8 bits", "transparency is not kept"
Named = tuple[dict[str, str], Clip]


def named_clip(subject: str, what: str, clip: Clip) -> Named:
    """A clip with its values on the matrix's axes."""
    to = f" to {clip.target}" if clip.target else ""
    return {"subject": subject, "file": f"{clip.container}{to}, {clip.codec}", "case": what}, clip


def _native(codec: str) -> str:
    """A pixel format that an encoder takes."""
    special = {"mjpeg": "yuvj420p", "prores_ks": "yuv422p10le", "huffyuv": "yuv422p"}
    return special.get(codec, "gbrp" if codec == "libx264rgb" else "yuv420p")


CODECS = {
    "mp4": ("libx264", "libx265", "libaom-av1", "libvpx-vp9", "mpeg4", "mpeg2video", "mjpeg"),
    "mov": ("libx264", "libx265", "prores_ks", "mjpeg", "mpeg4"),
    "m4v": ("libx264", "mpeg4"),
    "mkv": (
        *("libx264", "libx265", "libaom-av1", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video"),
        *("mjpeg", "ffv1", "rawvideo", "libtheora", "huffyuv", "utvideo", "libx264rgb"),
    ),
    "webm": ("libvpx", "libvpx-vp9", "libaom-av1"),
    "avi": ("mpeg4", "mjpeg", "rawvideo", "ffv1", "huffyuv"),
}
FORMATS = {
    "libx264": ("yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "gray"),
    "libx265": ("yuv422p", "yuv444p", "yuv420p10le", "yuv420p12le", "gray"),
    "libvpx-vp9": ("yuv444p", "yuv420p10le", "yuva420p", "gbrp"),
    "libaom-av1": ("yuv444p", "yuv420p10le", "gray"),
    "prores_ks": ("yuv444p10le", "yuva444p10le"),
    "ffv1": ("gray", "yuva420p", "gbrp", "gbrp10le", "yuv444p16le"),
    "mjpeg": ("yuvj422p",),
}
OTHERS = {  # containers that are not read: encoder, and muxer's options
    "ts": "mpeg2video", "m2ts": "libx264", "mpg": "mpeg2video", "3gp": "libx264", "flv": "flv",
    "wmv": "wmv2", "ogv": "libtheora",
}  # fmt: skip


def containers() -> Iterator[Named]:
    """Each codec in each container, B-frames, and formats of pixels."""
    for container, codecs in CODECS.items():
        for codec in codecs:
            pixels = _native(codec)
            told = EIGHT if "10" in pixels else ""
            yield named_clip("codecs", pixels, Clip(container, codec, pixels, told=told))
    for container in ("mp4", "mov", "mkv"):
        for frames in ("0", "3"):
            clip = Clip(container, options=("-bf", frames, "-g", "4"))
            yield named_clip("codecs", f"{frames} B-frames", clip)
    for codec, formats in FORMATS.items():
        for pixels in formats:
            layout = LAYOUTS[pixels]
            told = EIGHT if layout.bits > 8 else ""
            told = ".*".join(filter(None, (told, ALPHA if layout.alpha else "")))
            container = "mov" if codec == "prores_ks" else "mkv"
            yield named_clip("codecs", pixels, Clip(container, codec, pixels, told=told))
    for container, codec in OTHERS.items():
        clip = Clip(container, codec, refused="this format of videos is not supported")
        yield named_clip("containers not read", "", clip)


RATES = ("24", "25", "30", "50", "60", "24000/1001", "30000/1001", "60000/1001")


def _each(ticks: int, first: int = 0) -> tuple[int, ...]:
    return tuple(first + ticks * n for n in range(8))


def times() -> Iterator[Named]:
    """Constant, uneven, late, repeated and held frames."""
    pairs = (
        *(("mp4", "libx264"), ("mov", "libx264"), ("mkv", "libx264"), ("webm", "libvpx-vp9")),
        ("avi", "mpeg4"),
    )
    for container, codec in pairs:
        for rate in map(Fraction, RATES):
            clip = Clip(container, codec, times=_each(1), tick=1 / rate, rate=rate)
            yield named_clip("times", f"{rate} frames a second", clip)
        yield named_clip("times", "one frame", Clip(container, codec, times=(0,)))
    for container, codec in pairs[:-1]:
        cases: dict[str, dict[str, Any]] = {
            "uneven": {"times": UNEVEN, "tick": Fraction(1, 600)},
            "begins at 1.5 s": {"times": _each(24, 900), "tick": Fraction(1, 600)},
            "a frame is missing": {"times": (0, 1, 2, 4, 5, 6)},
            "a gap of 10 s": {"times": (0, 1, 2, 252, 253)},
            "one frame, at 0.4 s": {"times": (10,)},
            "1000 frames a second": {
                "times": _each(1),
                "tick": Fraction(1, 1000),
                "rate": Fraction(1000),
            },
            "a frame in 2 s": {"times": _each(2), "tick": Fraction(1), "rate": Fraction(1, 2)},
        }
        for what, case in cases.items():
            yield named_clip("times", what, Clip(container, codec, **case))
    for container in ("mp4", "mov"):
        for scale, step in (("90000", 3003), ("600", 20), ("15360", 512), ("1000000", 33367)):
            clip = Clip(
                container, times=_each(step), tick=Fraction(1, int(scale)),
                options=("-video_track_timescale", scale),
            )  # fmt: skip
            yield named_clip("times", f"time scale {scale}", clip)
    for container in ("mp4", "mov", "mkv"):
        hold = "setts=duration='if(eq(N,7),1800,24)'"
        clip = Clip(
            container, times=_each(24), tick=Fraction(1, 600), options=(*NO_B, "-bsf:v", hold)
        )  # fmt: skip
        yield named_clip("times", "the last frame is held for 3 s", clip)
        repeated = (0, 24, 24, 48, 72)
        clip = Clip(
            container, times=repeated, tick=Fraction(1, 600), options=NO_B,
        )  # fmt: skip
        yield named_clip("times", "two frames at one time", clip)
    for rate in map(Fraction, RATES):
        for container, target in (("mkv", "avi"), ("mp4", "avi"), ("mp4", "webm"), ("mkv", "mp4")):
            clip = Clip(container, times=_each(1), tick=1 / rate, rate=rate, target=target)
            yield named_clip("times", f"{rate} frames a second", clip)
    clip = Clip("mkv", times=UNEVEN, tick=Fraction(1, 600), target="avi", refused="constant rate")
    yield named_clip("times", "uneven", clip)
    clip = Clip("mkv", times=_each(1, 25), target="avi", refused="in AVI they begin at 0")
    yield named_clip("times", "begins at 1 s", clip)


def trimmed() -> Iterator[Named]:
    """Edit lists of MP4 and MOV, written by hand and by FFmpeg."""
    start, step = range(4, 24), 24  # ticks of a frame, at 600 a second
    from_zero = [n / 25 for n in range(20)]
    for container in ("mp4", "mov"):
        sounds: tuple[tuple[str, dict[str, Any]], ...] = (
            ("", {"options": CUT}),
            (
                ", with sound",
                {"options": (*CUT, "-c:a", "aac"), "inputs": SOUND, "maps": WITH_SOUND},
            ),
        )  # fmt: skip
        for sound, given in sounds:
            cases: dict[str, tuple[Sequence[tuple[int, int]], Sequence[int], list[float]]] = {
                "start cut off": ([(800, 4 * step)], start, from_zero),
                "end cut off": ([(480, 0)], range(12), from_zero[:12]),
                "middle cut out": (
                    [(240, 0), (480, 12 * step)],
                    [*range(6), *range(12, 24)],
                    from_zero[:18],
                ),
                "begins later": (
                    [(400, -1), (960, 0)],
                    LONGER,
                    [0.4 + n / 25 for n in LONGER],
                ),
                "a part twice": (
                    [(240, 0), (240, 0), (480, 12 * step)],
                    [*range(6), *range(6), *range(12, 24)],
                    [n / 25 for n in range(24)],
                ),
            }
            for what, (entries, shown, when) in cases.items():
                clip = Clip(
                    container, times=LONGER, **given, patch=edits.edit_list(*entries),
                    shown=shown, shown_times=when,
                )  # fmt: skip
                yield named_clip("edit lists", f"{what}{sound}", clip)
        clip = Clip(
            container, times=LONGER, inputs=SOUND, maps=WITH_SOUND,
            options=("-g", "8", "-c:a", "aac"), patch=edits.remuxed("-ss", "0.2"),
            shown=range(5, 24), shown_times=from_zero[:19],
        )  # fmt: skip
        yield named_clip("edit lists", "cut by FFmpeg without encoding, B-frames", clip)
        clip = Clip(
            container, times=tuple(range(-5, 7)), inputs=SOUND, maps=WITH_SOUND,
            options=(*CUT, "-c:a", "aac", "-avoid_negative_ts", "disabled"),
            shown=range(5, 12), shown_times=from_zero[:7],
        )  # fmt: skip
        yield named_clip("edit lists", "begins before 0", clip)


def turns() -> Iterator[Named]:
    """Display matrices, and the shapes of pixels and of fields."""
    for container, codec in (
        *(("mp4", "libx264"), ("mov", "libx264"), ("m4v", "libx264"), ("mp4", "libx265")),
        ("mov", "prores_ks"),
    ):
        pixels = _native(codec)
        told = EIGHT if "10" in pixels else ""
        for turn in edits.MATRICES:
            patch = edits.display_matrix(turn)
            clip = Clip(container, codec, pixels, turn=turn, patch=patch, told=told)
            yield named_clip("rotation", turn, clip)
    for container, codec in (("mkv", "libx264"), ("webm", "libvpx-vp9")):
        for turn, angle in (("a quarter right", -90), ("a quarter left", 90), ("half a turn", 180)):
            patch = edits.remuxed("-display_rotation", angle)
            for target in ("", "mp4"):
                clip = Clip(container, codec, turn=turn, patch=patch, target=target)
                yield named_clip("rotation", turn, clip)
    flip = edits.remuxed("-display_hflip")
    yield named_clip("rotation", "mirrored", Clip("mkv", turn="mirrored", patch=flip))
    for container, codec in (
        *(("mp4", "libx264"), ("mp4", "mpeg4"), ("mp4", "libvpx-vp9"), ("mov", "mjpeg")),
        *(("mkv", "libx264"), ("mkv", "libvpx-vp9"), ("mkv", "ffv1"), ("webm", "libvpx-vp9")),
        *(("avi", "mpeg4"), ("mkv", "mpeg2video")),
    ):
        for target in dict.fromkeys(("", "mkv", "webm")):
            clip = Clip(container, codec, _native(codec), aspect=Fraction(4, 3), target=target)
            yield named_clip("shape", "pixels of 4:3", clip)
    patch = edits.display_matrix("a quarter left")
    clip = Clip(turn="a quarter left", aspect=Fraction(4, 3), patch=patch)
    yield named_clip("shape", "pixels of 4:3, a quarter left", clip)
    fields = ("-flags", "+ildct+ilme", "-x264-params")
    for order in ("tff=1", "bff=1"):
        for full in (False, True):
            clip = Clip(full=full, options=(*fields, order), told="deinterlaced")
            yield named_clip("shape", f"interlaced, {order}, full range: {full}", clip)


def colours() -> Iterator[Named]:
    """Matrices, ranges, primaries and curves."""
    for container, codec in (
        *(("mp4", "libx264"), ("webm", "libvpx-vp9"), ("mkv", "ffv1")),
        ("mov", "libx265"),
    ):
        for matrix in ("bt470bg", "bt709", "bt2020nc"):
            for full in (False, True):
                what = f"{matrix}, {'full' if full else 'limited'} range"
                yield named_clip("colour", what, Clip(container, codec, matrix=matrix, full=full))
        yield named_clip("colour", "untagged", Clip(container, codec, tagged=False))
    for primaries, curve in (
        ("bt709", "bt709"),
        ("smpte432", "iec61966-2-1"),
        ("bt2020", "bt2020-10"),
    ):
        for container in ("mp4", "mkv", "mov"):
            clip = Clip(container, matrix="bt709", primaries=primaries, curve=curve)
            yield named_clip("colour", f"primaries {primaries}, curve {curve}", clip)
    for curve in ("smpte2084", "arib-std-b67"):
        for container, codec in (
            *(("mp4", "libx265"), ("mkv", "libvpx-vp9"), ("mov", "prores_ks")),
            ("mp4", "libaom-av1"),
        ):
            pixels = "yuv422p10le" if codec == "prores_ks" else "yuv420p10le"
            clip = Clip(
                container, codec, pixels, matrix="bt2020nc", primaries="bt2020", curve=curve,
                refused="is HDR video",
            )  # fmt: skip
            yield named_clip("colour", f"curve {curve}", clip)
