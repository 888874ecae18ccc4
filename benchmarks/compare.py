"""Has it become worse? Two results files, and what differs beyond noise."""

from __future__ import annotations

from benchmarks import statistics
from benchmarks.contenders import REFERENCE
from benchmarks.results import Results

THRESHOLD = 0.05  # of speed
PSNR_LOST = 0.02  # dB, what the export's gate allows half precisions
NME_GROWN = 0.001
MEMORY_GROWN = 1.10


def regressions(new: Results, old: Results, threshold: float = THRESHOLD) -> list[str]:
    """What has become worse, a line each.

    Speeds are compared as ratios to PyTorch in the same round: two runs rarely see the same
    machine. A ratio has become lower where it did so by more than `threshold` and the 95 %
    intervals of the two medians are apart. Of equal data, accuracy must not fall.
    """
    found = []
    before = {(row.name, row.batch): row for row in old.latency}
    for row in new.latency:
        earlier = before.get((row.name, row.batch))
        peer = new.contender(row.name).peer or row.name == REFERENCE
        if earlier is None or peer or not statistics.lower(row.speed, earlier.speed, threshold):
            continue
        now, then = statistics.median(row.speed), statistics.median(earlier.speed)
        found.append(f"{row.name}, batch {row.batch}: {now:.2f}× PyTorch's speed, was {then:.2f}×")
    memory = {row.name: row for row in old.footprints}
    for print_ in new.footprints:
        if print_.name in memory and print_.name != REFERENCE:
            now = statistics.median(print_.host_megabytes)
            then = statistics.median(memory[print_.name].host_megabytes)
            if now > then * MEMORY_GROWN:
                found.append(f"{print_.name}: {now:.0f} MB at most, was {then:.0f}")
    if new.faces == old.faces:
        known = {row.name: row for row in old.accuracy}
        for score in new.accuracy:
            was = known.get(score.name)
            if was is None:
                continue
            if score.psnr < was.psnr - PSNR_LOST:
                found.append(f"{score.name}: {score.psnr:.2f} dB, was {was.psnr:.2f}")
            if score.nme is not None and was.nme is not None and score.nme > was.nme + NME_GROWN:
                found.append(f"{score.name}: NME {score.nme:.2%}, was {was.nme:.2%}")
    return found


def compared(new: Results, old: Results) -> int:
    """How many rows of two runs can be compared at all."""
    rows = {(row.name, row.batch) for row in new.latency}
    scores = {row.name for row in new.accuracy} if new.faces == old.faces else set()
    return len(rows & {(row.name, row.batch) for row in old.latency}) + len(
        scores & {row.name for row in old.accuracy}
    )
