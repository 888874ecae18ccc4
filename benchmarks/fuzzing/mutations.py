"""Mutations of files: of bytes, of text, and of the values of documents."""

from __future__ import annotations

import math
import random
import re
from typing import Any

# Values where none of their kind belongs.
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 2**31, 2**63, 10**400, 1e308, math.nan, math.inf, "", "a", "\x00"),
    *([], [[]], {}, ["a"], {"a": 1}),
)
ODD_NUMBERS = (
    *(b"-1", b"0", b"1e999", b"nan", b"-inf", b"1e-320", b"4294967296", b"9223372036854775808"),
    *(b"9" * 400, b"9" * 5000, b"1_0", b"0x10", b"", "½".encode()),
)
ODD_TEXTS = (
    *(b"[" * 100_000, b'{"a":' * 50_000, b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b'"', b"'"),
    *(b",", b"\n\n", b"{", b"}", b"]", "\u2028".encode(), b"\xed\xa0\x80", b"\\ud800"),
    b"x" * 140_000,
)  # fmt: skip
EXTREMES = (b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff")
HEAD = 96  # bytes in which most formats state sizes and counts


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with some changed, removed, repeated or added."""
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(changed) + 1)
        kind = rng.randrange(4)
        if kind == 0 and changed:
            changed[at % len(changed)] = rng.randrange(256)
        elif kind == 1:
            del changed[at : at + rng.randrange(1, 64)]
        elif kind == 2:
            changed[at:at] = rng.randbytes(rng.randrange(1, 16))
        else:
            changed += changed[: rng.randrange(0, 32)]
    return bytes(changed)


def mutated_binary(data: bytes, rng: random.Random) -> bytes:
    """A file of a binary format: cut short, mutated, or with extreme fields at its head or end."""
    kind = rng.randrange(4)
    if kind == 0:
        return data[: rng.randrange(len(data))]
    if kind == 1:
        return mutated(data, rng)
    changed = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        end = len(changed) if kind == 2 else min(HEAD, len(changed))
        at, size = rng.randrange(end), rng.choice((1, 2, 4, 8))
        if rng.random() < 0.2:
            at = len(changed) - 1 - at
        field = rng.choice(EXTREMES) * size if rng.random() < 0.6 else rng.randbytes(size)
        changed[at : at + size] = field
    return bytes(changed)


def mutated_text(data: bytes, rng: random.Random) -> bytes:
    """A text file: a number replaced by an odd one, odd text, lines swapped, or mutated bytes."""
    kind = rng.randrange(5)
    if kind == 0:
        numbers = list(re.finditer(rb"-?\d+(\.\d+)?", data))
        if numbers:
            found = rng.choice(numbers)
            return data[: found.start()] + rng.choice(ODD_NUMBERS) + data[found.end() :]
    if kind == 1:
        at = rng.choice((0, len(data), rng.randrange(len(data) + 1)))
        return data[:at] + rng.choice(ODD_TEXTS) + data[at:]
    if kind == 2:
        lines = data.splitlines(keepends=True)
        at, to = rng.randrange(len(lines)), rng.randrange(len(lines))
        lines[at] = rng.choice((b"", lines[to], lines[at] * 2))
        return b"".join(lines)
    if kind == 3:
        return data[: rng.randrange(len(data) + 1)]
    return mutated(data, rng)


def mutated_value(value: Any, rng: random.Random) -> Any:
    """A document of dictionaries and lists with one value replaced, left out or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        changed = dict(value)
        key = rng.choice(list(changed))
        if rng.random() < 0.15:
            del changed[key]
        elif rng.random() < 0.1:
            changed[str(rng.choice(ODD))] = changed.pop(key)
        else:
            changed[key] = mutated_value(changed[key], rng)
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], mutated_value(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)
