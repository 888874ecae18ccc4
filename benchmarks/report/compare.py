"""Compare two results and list what has become worse beyond noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from benchmarks.contenders.gather import REFERENCE
from benchmarks.measure import statistics
from benchmarks.report.results import Results


class _Named(Protocol):
    @property
    def name(self) -> str: ...


Row = TypeVar("Row", bound=_Named)

THRESHOLD = 0.05  # accepted loss of speed, as a share
PSNR_LOSS = 0.02  # accepted, dB; the gate's limit for half precisions
NME_INCREASE = 0.001  # accepted
MEMORY_FACTOR = 1.10  # accepted


def regressions(new: Results, old: Results, threshold: float = THRESHOLD) -> list[str]:
    """Describe everything that has become worse, one line each.

    Speeds are ratios to PyTorch in the same round, because two runs rarely happen under the same
    conditions. A ratio is worse if it dropped by more than `threshold` and the 95 % intervals of
    the two medians do not overlap (`statistics.lower`). Accuracy is compared on equal faces only.

    Args:
        threshold: accepted loss of speed, 0.05 for 5 %.
    """
    found = []
    for row, earlier in _pairs(
        new, old, new.latency, old.latency, lambda row: (row.name, row.batch)
    ):
        if row.speed and earlier.speed and statistics.lower(row.speed, earlier.speed, threshold):
            now, then = statistics.median(row.speed), statistics.median(earlier.speed)
            found.append(
                f"{row.name}, batch {row.batch}: {now:.2f}× PyTorch's speed, was {then:.2f}×"
            )
    for print_, was in _pairs(new, old, new.footprints, old.footprints, lambda row: row.name):
        if not (print_.host_megabytes and was.host_megabytes):
            continue
        now, then = (statistics.median(one.host_megabytes) for one in (print_, was))
        if now > then * MEMORY_FACTOR:
            found.append(f"{print_.name}: {now:.0f} MB peak memory, was {then:.0f}")
    if new.faces == old.faces:
        known = {row.name: row for row in old.accuracy}
        for score in new.accuracy:
            before = known.get(score.name)
            if before is None:
                continue
            if score.psnr < before.psnr - PSNR_LOSS:
                found.append(f"{score.name}: {score.psnr:.2f} dB, was {before.psnr:.2f}")
            if before.nme is None:
                continue
            if score.nme is None:
                found.append(f"{score.name}: no landmarks, NME was {before.nme:.2%}")
            elif score.nme > before.nme + NME_INCREASE:
                found.append(f"{score.name}: NME {score.nme:.2%}, was {before.nme:.2%}")
    return found


def _pairs(
    new: Results,
    old: Results,
    rows: Sequence[Row],
    before: Sequence[Row],
    key: Callable[[Row], object],
) -> list[tuple[Row, Row]]:
    """Pairs of new and old rows of those engines that both runs measured on the same backend and
    device.
    """
    alike = {one.name: one for one in new.contenders if not one.peer and one.name != REFERENCE}
    alike = {name: one for name, one in alike.items() if one in old.contenders}
    known = {key(row): row for row in before}
    return [(row, known[key(row)]) for row in rows if row.name in alike and key(row) in known]


def differences(new: Results, old: Results) -> list[str]:
    """Differences of the machines, which may explain other differences; one line each."""
    lines = []
    for name in ("processor", "cores", "gpus", "versions"):
        now, then = getattr(new.machine, name), getattr(old.machine, name)
        if now != then:
            lines.append(f"{name}: {now}, was {then}")
    return lines


def compared(new: Results, old: Results) -> int:
    """The number of figures that two runs have in common."""
    rows = _pairs(new, old, new.latency, old.latency, lambda row: (row.name, row.batch))
    prints = _pairs(new, old, new.footprints, old.footprints, lambda row: row.name)
    scores = {row.name for row in new.accuracy} if new.faces == old.faces else set()
    return len(rows) + len(prints) + len(scores & {row.name for row in old.accuracy})
