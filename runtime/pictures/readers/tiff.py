"""TIFF: decoded by libvips where its tags state a layout that libvips reads right, else refused by
name. libvips guesses otherwise: it gives black for compressions that it lacks.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import pyvips

from runtime.pictures.header import DAMAGED, ImageError
from runtime.pictures.picture import LOSSY, Opened
from runtime.pictures.readers import vips

# Tags (TIFF 6.0, 8).
NEW_SUBFILE_TYPE, SUBFILE_TYPE, BITS, COMPRESSION, PHOTOMETRIC = 254, 255, 258, 259, 262
SAMPLES, PLANES, UNIT, TILE_WIDTH, INK_SET, EXTRA, FORMAT = 277, 284, 296, 322, 332, 338, 339
DNG_VERSION = 50706
DEFAULTS: dict[int, tuple[int, ...]] = {
    **dict.fromkeys((BITS, COMPRESSION, SAMPLES, PLANES, INK_SET, FORMAT, SUBFILE_TYPE), (1,)),
    NEW_SUBFILE_TYPE: (0,),
    UNIT: (2,),
    EXTRA: (),
}
WHOLE = {1: "B", 3: "H", 4: "I", 16: "Q"}  # field types of whole numbers

REDUCED_OR_MASK = 0b101  # bits of NewSubfileType: a smaller version, or another page's mask
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, INKS, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
COLOURS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, INKS: 4, YCBCR: 3, LAB: 3}
RAW = (32803, 34892)  # colour filter array, and its values after interpolation
UNSIGNED, UNDEFINED = 1, 4  # SampleFormat
PREMULTIPLIED, STRAIGHT = 1, 2  # ExtraSamples; 0 is no alpha
LAB_SCRATCH = 12  # bytes of a pixel of L*a*b*, which is converted
JPEG = 7
COMPRESSIONS = frozenset((1, 2, 3, 4, 5, JPEG, 8, 32773, 32946, 50001))  # in the wheel's libtiff
NAMES = {6: "old JPEG", 34712: "JPEG 2000", 34887: "LERC", 34925: "LZMA", 34933: "PNG",
         50000: "Zstandard", 50002: "JPEG XL", 52546: "JPEG XL"}  # fmt: skip

Tags = Mapping[int, tuple[int, ...]]


@dataclass(frozen=True)
class Layout:
    """What a page's tags say of its pixels.

    Attributes:
        photometric: what its colours are.
        bits: of a sample.
        colours: samples of a pixel but extra ones.
        alpha: the sample that is alpha.
    """

    photometric: int
    bits: int
    colours: int
    alpha: int | None

    def converted(self, image: pyvips.Image) -> pyvips.Image:
        """Grey or RGB, and alpha, of what libvips has read."""
        if self.photometric == INKS:
            used = image if self.alpha is None else _joined(image, 4, self.alpha)
            return vips.without_inks(used, self.alpha is not None)
        if self.photometric == LAB:
            return _of_lab(image, self.bits)
        if image.bands <= self.colours or self.photometric in (PALETTE, YCBCR):
            return image
        if self.alpha is None:
            return image.extract_band(0, n=self.colours)
        return _joined(image, self.colours, self.alpha)


def _joined(image: pyvips.Image, colours: int, alpha: int) -> pyvips.Image:
    if (colours, alpha) == (image.bands - 1, image.bands - 1):
        return image
    return image.extract_band(0, n=colours).bandjoin(image.extract_band(alpha))


def _of_lab(image: pyvips.Image, bits: int) -> pyvips.Image:
    """The samples of CIE L*a*b* (TIFF 6.0, 23), which were read as they are, as sRGB."""
    half = 2 ** (bits - 1)
    light = image.extract_band(0) * (100 / (2 * half - 1))
    signed = image.extract_band(1, n=2)
    signed = (signed >= half).ifthenelse(signed - 2 * half, signed * 1) / (half / 128)
    return vips.of_lab(light.bandjoin(signed), bits)


def opened(name: str, data: bytes) -> Opened:
    """Open a TIFF file.

    Raises:
        ImageError: it is damaged, has several pages, or a layout that is not read.
    """
    try:
        pages = list(_pages(data))
    except (struct.error, KeyError, ValueError) as error:
        raise ImageError(f"{name}: {DAMAGED}") from error
    if any(DNG_VERSION in tags for tags, _ in pages):
        raise ImageError(f"{name}: raw camera pictures cannot be read; convert it to JPEG first")
    main = [n for n, (tags, _) in enumerate(pages) if not _is_other(tags)]
    if len(main) != 1:
        what = f"has {len(main)} pages" if main else "has only previews and masks"
        raise ImageError(f"{name}: {what}; make single pictures of them first")
    tags, places = pages[main[0]]
    layout = _layout(name, tags)
    if layout.photometric == LAB:  # libvips takes only some of its layouts; as RGB all
        at, kind = places[PHOTOMETRIC]
        data = data[:at] + struct.pack(kind, RGB) + data[at + struct.calcsize(kind) :]
    coarse = LOSSY if _one(tags, COMPRESSION) == JPEG else 0.0
    loader = vips.Loader(
        "tiff",
        {"page": main[0]},
        layout.converted,
        lambda picture: replace(picture, quantisation=coarse),
        pages=True,
        resolution=_one(tags, UNIT) != 1,
        scratch=LAB_SCRATCH if layout.photometric == LAB else 0,
        # libvips makes tiles black that libtiff cannot decode, unless its warnings are errors too.
        fail_on="warning" if tags.get(TILE_WIDTH) else "error",
    )
    return vips.opened(name, data, loader)


def _is_other(tags: Tags) -> bool:
    """Whether a page is a smaller version or a mask of another."""
    return bool(_one(tags, NEW_SUBFILE_TYPE) & REDUCED_OR_MASK) or _one(tags, SUBFILE_TYPE) == 2


def _one(tags: Tags, tag: int) -> int:
    return (tags.get(tag) or DEFAULTS[tag])[0]


def _layout(name: str, tags: Tags) -> Layout:
    """The layout of a page.

    Raises:
        ImageError: it is not read.
    """
    if not tags.get(PHOTOMETRIC):
        raise ImageError(f"{name}: {DAMAGED}")
    photometric, samples = _one(tags, PHOTOMETRIC), _one(tags, SAMPLES)
    packing, kinds = _one(tags, COMPRESSION), set(tags.get(FORMAT) or DEFAULTS[FORMAT])
    all_bits = set(tags.get(BITS) or DEFAULTS[BITS])
    bits = max(all_bits)

    def refuse(what: str) -> ImageError:
        return ImageError(f"{name}: {what}; convert it to another TIFF or PNG first")

    if photometric in RAW:
        raise refuse("is a raw picture of a camera")
    if photometric not in COLOURS or (photometric == INKS and _one(tags, INK_SET) != 1):
        what = "other inks than CMYK" if photometric == INKS else "photometric interpretation"
        raise refuse(f"its colours are of a kind that is not read ({what} {photometric})")
    if photometric == YCBCR and packing != JPEG:  # which libtiff makes RGB of
        raise refuse("YCbCr colours without JPEG compression cannot be read")
    if packing not in COMPRESSIONS:
        raise refuse(f"compression {NAMES.get(packing, packing)} cannot be read")
    if not kinds <= {UNSIGNED, UNDEFINED}:
        raise refuse("signed or floating-point samples; 8 or 16 bits a channel are supported")
    colours = COLOURS[photometric]
    single = samples == 1 and photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE)
    read = {1, 2, 4, 8} if single else {8}
    read |= set() if photometric in (PALETTE, YCBCR) else {16}
    if len(all_bits) > 1 or bits not in read:
        raise refuse(f"{bits} bits a channel; 8 or 16 bits are supported, and 1, 2 and 4 of grey")
    if samples < colours:
        raise ImageError(f"{name}: {DAMAGED}")
    if samples > colours and photometric in (PALETTE, YCBCR, LAB):
        raise refuse(f"{samples} channels with these colours cannot be read")
    if _one(tags, PLANES) == 2 and samples > 1 and (tags.get(TILE_WIDTH) or samples not in (3, 4)):
        raise refuse("its channels are in planes in a way that is not read")
    extra = tags.get(EXTRA) or (STRAIGHT,) * (samples > colours)
    alpha = [n for n, kind in enumerate(extra[: samples - colours]) if kind]
    alone = samples == colours + 1 and photometric != INKS
    if alpha and extra[alpha[0]] == PREMULTIPLIED and not alone:
        raise refuse("premultiplied alpha beside other channels cannot be read")
    return Layout(photometric, bits, colours, colours + alpha[0] if alpha else None)


def _pages(data: bytes) -> Iterator[tuple[dict[int, tuple[int, ...]], dict[int, tuple[int, str]]]]:
    """Of each page, its tags that hold whole numbers, and their places and types in the file.

    Raises:
        struct.error, KeyError, ValueError: a directory is damaged, or they overlap.
    """
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    big = data[2:4] in (b"+\0", b"\0+")
    count, entry, offset = ("Q", "HHQ8s", "Q") if big else ("H", "HHI4s", "I")
    (at,) = struct.unpack_from(order + offset, data, 8 if big else 4)
    size, room = struct.calcsize(order + entry), len(data)
    while at:
        (entries,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(order + count)
        room -= (entries + 1) * size  # a circle of directories would have no end
        if room < 0:
            raise ValueError("the directories overlap")
        tags, places = {}, {}
        for place in range(at, at + entries * size, size):
            tag, kind, values, inside = struct.unpack_from(order + entry, data, place)
            if kind in WHOLE and (tag in DEFAULTS or tag in (PHOTOMETRIC, TILE_WIDTH, DNG_VERSION)):
                form = f"{order}{min(values, 64)}{WHOLE[kind]}"
                start = place + size - len(inside)
                if values * struct.calcsize(order + WHOLE[kind]) > len(inside):
                    (start,) = struct.unpack_from(order + offset, inside)
                tags[tag] = struct.unpack_from(form, data, start)
                places[tag] = (start, order + WHOLE[kind])
        yield tags, places
        (at,) = struct.unpack_from(order + offset, data, at + entries * size)
