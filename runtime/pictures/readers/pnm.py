"""PBM, PGM, PPM and PAM: plain samples after a header in text (Netpbm's manual pages)."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from runtime.pictures.header import DAMAGED, Header, ImageError
from runtime.pictures.picture import Opened, Picture, Pixels, split, to_full_scale

SPACE = rb"(?:\s|#[^\n]*(?:\n|$))"  # white space and comments
PLAIN = re.compile(rb"P([1-6])" + SPACE + rb"+(\d{1,9})" + SPACE + rb"+(\d{1,9})")
WHITE = re.compile(SPACE + rb"+(\d{1,9})")
ONE_SPACE = re.compile(SPACE)  # before the samples
PAM = re.compile(rb"P7\s(?:[^\n]*\n){0,64}?ENDHDR[ \t]*\n")
FIELD = re.compile(rb"^\s*(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d{1,9})\s*$", re.MULTILINE)
KIND = re.compile(rb"^\s*TUPLTYPE[ \t]+(.*?)\s*$", re.MULTILINE)
KINDS = tuple(
    colour + alpha
    for colour in (b"BLACKANDWHITE", b"GRAYSCALE", b"RGB")
    for alpha in (b"", b"_ALPHA")
)
HEADER = 65536  # bytes in which it must end
BLOCK = 2**18  # bytes of text that are read at once; a sample has at least two
WORD = 9  # digits of a sample, at most
IN_TEXT = b"0123456789 \t\n\v\f\r"
LONGEST_KIND = 32  # bytes that errors show
CHANNELS = {1: 1, 2: 1, 3: 3, 4: 1, 5: 1, 6: 3}


@dataclass(frozen=True)
class Layout:
    """What a header says.

    Attributes:
        variant: the number after P.
        white: the value of full brightness; of bitmaps 1.
        start: where the samples begin.
        kind: what the channels of a PAM are; empty where it does not say.
    """

    variant: int
    width: int
    height: int
    channels: int
    white: int
    start: int
    kind: bytes = b""

    @property
    def depth(self) -> int:
        """Bytes of a sample."""
        return 1 if self.white <= 255 else 2


def opened(name: str, data: bytes) -> Opened:
    """Open a Netpbm file; raises ImageError if it is damaged or of channels that are not read."""
    layout = _layout(data)
    if layout is None or not layout.width * layout.height or not 1 <= layout.white <= 65535:
        raise ImageError(f"{name}: {DAMAGED}")
    if not 1 <= layout.channels <= 4:
        raise ImageError(f"{name}: {layout.channels} channels; at most 4 are supported")
    if layout.kind and layout.kind not in KINDS:
        kind = layout.kind[:LONGEST_KIND].decode("ascii", "replace")
        raise ImageError(f"{name}: PAM of the type {kind} cannot be read; convert it to PNG first")

    def decode() -> Picture:
        try:
            samples = _samples(data, layout)
        except ValueError as error:
            raise ImageError(f"{name}: {DAMAGED}") from error
        return Picture(*split(to_full_scale(samples, layout.white)))

    numbers = 4 * layout.channels if layout.variant in (1, 2, 3) else 0
    size = layout.width, layout.height
    return Opened(Header(*size, layout.channels, layout.depth, scratch=numbers), decode)


def _layout(data: bytes) -> Layout | None:
    start = data[:HEADER]
    if found := PAM.match(start):
        fields = {key: int(value) for key, value in FIELD.findall(found[0])}
        if len(fields) < 4:
            return None
        size = fields[b"WIDTH"], fields[b"HEIGHT"]
        kind = b" ".join(KIND.findall(found[0]))
        return Layout(7, *size, fields[b"DEPTH"], fields[b"MAXVAL"], found.end(), kind)
    if not (found := PLAIN.match(start)):
        return None
    variant, white, end = int(found[1]), 1, found.end()
    if variant not in (1, 4):
        if not (stated := WHITE.match(start, end)):
            return None
        white, end = int(stated[1]), stated.end()
    if not (space := ONE_SPACE.match(start, end)):
        return None
    size = int(found[2]), int(found[3])
    return Layout(variant, *size, CHANNELS[variant], white, space.end())


def _samples(data: bytes, layout: Layout) -> Pixels:
    """(H, W, channels) of 0 to white.

    Raises:
        ValueError: there are too few, or larger ones.
    """
    shape = layout.height, layout.width, layout.channels
    count = layout.height * layout.width * layout.channels
    if layout.variant == 4:
        row = -(-layout.width // 8)
        packed = np.frombuffer(data, np.uint8, layout.height * row, layout.start)
        bits = np.unpackbits(packed.reshape(-1, row), axis=1)[:, : layout.width]
        return 1 - bits.reshape(shape)  # ink is black
    if layout.variant in (1, 2, 3):
        samples = _of_text(data, layout.start - 1, layout.variant == 1, count)
    else:
        dtype = np.dtype(">u2" if layout.depth == 2 else np.uint8)
        samples = np.frombuffer(data, dtype, count, layout.start)
    if samples.max() > layout.white or samples.min() < 0:
        raise ValueError("a sample is not in 0 to white")
    if layout.variant == 1:
        samples = 1 - samples
    return samples.astype(np.uint8 if layout.depth == 1 else np.uint16).reshape(shape)


def _of_text(data: bytes, start: int, bitmap: bool, count: int) -> Pixels:
    """The first `count` numbers of a text; the digits of bitmaps need no spaces.

    Raises:
        ValueError: there are fewer, or other words.
    """
    found = np.empty(count, np.uint8 if bitmap else np.int32)
    filled = 0
    while filled < count:
        block = data[start : start + BLOCK]
        if len(block) == BLOCK and not bitmap:  # up to the last whole word
            block = block[: max(map(block.rfind, (b" ", b"\n", b"\t", b"\r"))) + 1]
        if not block:
            raise ValueError("too few samples, or a word too long")
        start += len(block)
        if bitmap:
            text = np.frombuffer(block, np.uint8)
            part: Pixels = text[text > ord(" ")] - ord("0")
        else:
            words = block.split()
            if block.translate(None, IN_TEXT) or max(map(len, words), default=0) > WORD:
                raise ValueError("a word is no sample")
            part = np.array(words, f"S{WORD}").astype(np.int32)
        part = part[: count - filled]
        found[filled : filled + len(part)] = part
        filled += len(part)
    return found
