"""Results as Markdown tables, padded to be readable as plain text."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.contenders.gather import REFERENCE
from benchmarks.measure import statistics
from benchmarks.measure.latency import Latency
from benchmarks.measure.operators import Operator
from benchmarks.measure.statistics import FOR_INTERVAL, Interval
from benchmarks.report.markdown import table
from benchmarks.report.results import Results

OPERATORS = 12  # rows of a profile; the rest is summed in one row


def latency(results: Results) -> str:
    """Latency by batch size: ratio to the reference, times, throughput and share of the limit."""
    rows = results.latency
    on_gpu = any(row.gpu_milliseconds for row in rows)
    cells = []
    for row in sorted(rows, key=lambda row: row.batch):
        one = results.contender(row.name)
        share = results.limits and results.limits.share(row, one.device, one.precision)
        cells.append(
            [
                row.name,
                str(row.batch),
                f"{statistics.median(row.speed):.2f}×",
                _span(statistics.interval(row.speed), ".2f"),
                f"{row.median:.1f}",
                *(_percentile(row, percent) for percent in (90, 99)),
                *([_gpu(row)] if on_gpu else []),
                f"{row.faces_a_second:.1f}",
                "" if share is None else f"{share:.0%}",
            ]
        )
    head = ["", "batch", "speed", "95 %", "ms", "p90", "p99"]
    head += [*(["ms on GPU"] if on_gpu else []), "faces/s", "of limit"]
    return table(head, cells)


def latency_notes(results: Results) -> list[str]:
    """Explanations of the latency table, one paragraph each."""
    runs = [len(row.milliseconds) for row in results.latency]
    several = f"{min(runs)} to {max(runs)}" if min(runs) < max(runs) else f"{runs[0]}"
    notes = [
        f"Medians of {several} runs, interleaved, on new random pictures in every round; results "
        f"are compared. *Speed* is the median over the rounds of the ratio to {REFERENCE} in the "
        "same round."
    ]
    notes += _beside_peers(results)
    if not results.landmarks:
        notes.append(
            "The engines output faces only and omit the last landmark pass, which "
            f"{REFERENCE} computes."
        )
    if any(
        row.batch > 1 and results.contender(row.name).device == "cpu" for row in results.latency
    ):
        notes.append(
            "On CPUs, engines run batches of at least as many faces as cores with one face per "
            "core (`lanes` of `load_engine`); peers run the batch as a whole."
        )
    if min(runs) < FOR_INTERVAL:
        notes.append(f"No 95 % interval for fewer than {FOR_INTERVAL} runs.")
    notes.append("p90 needs 10 runs, p99 needs 100.")
    if results.limits:
        rates = ", ".join(f"{rate:.0f} in {name}" for name, rate in results.limits.gflops.items())
        notes.append(
            f"*Of limit*: {results.limits.network:.3g} GFLOP per face, relative to the GFLOP/s of "
            f"the fastest matrix product in this run ({rates}; copying "
            f"{results.limits.bandwidth:.0f} GB/s). A convolution may be slightly faster than a "
            "matrix product, and a rewritten network may need fewer operations than counted."
        )
    return notes


def _beside_peers(results: Results) -> list[str]:
    """The speed of each engine relative to the fastest peer, median over the rounds."""
    lines = []
    for batch in sorted({row.batch for row in results.latency}):
        rows = [row for row in results.latency if row.batch == batch]
        peers = [row for row in rows if results.contender(row.name).peer]
        for row in rows:
            if not peers or results.contender(row.name).peer or row.name == REFERENCE:
                continue
            best = min(peers, key=lambda peer: peer.median)
            found = statistics.ratios(best.milliseconds, row.milliseconds)
            span = _span(statistics.interval(found), ".2f")
            lines.append(
                f"{row.name} at batch {batch}: **{statistics.median(found):.2f}×** as fast as the "
                f"fastest peer, {best.name}{f' (95 %: {span})' if span else ''}."
            )
    return lines


def _span(found: Interval | None, form: str) -> str:
    return "" if found is None else f"{found[0]:{form}}–{found[1]:{form}}"


def _percentile(row: Latency, percent: float) -> str:
    found = statistics.percentile(row.milliseconds, percent)
    return "" if found is None else f"{found:.1f}"


def _gpu(row: Latency) -> str:
    times = row.gpu_milliseconds
    return f"{statistics.median(times):.2f}" if times else ""


def accuracy(results: Results) -> str:
    """Accuracy by contender; the difference is in grey levels."""
    cells = []
    for row in results.accuracy:
        agreement = row.reference_psnr
        cells.append(
            [
                row.name,
                f"{row.psnr:.2f}",
                f"{row.ssim:.4f}",
                "" if row.nme is None else f"{100 * row.nme:.2f}",
                "" if row.largest is None else str(row.largest),
                "" if agreement is None else ("equal" if agreement > 1e6 else f"{agreement:.1f}"),
            ]
        )
    for name, (psnr, ssim) in results.published.items():
        cells.append([f"{name} (published, not measured here)", f"{psnr}", f"{ssim}", "", "", ""])
    head = ("", "PSNR dB", "SSIM", "NME %", "max. difference", "dB to PyTorch")
    return table(head, cells)


def footprints(results: Results) -> str:
    """Start-up time and peak memory by contender."""
    on_gpu = any(row.gpu_megabytes for row in results.footprints)
    cells = [
        [
            row.name,
            f"{row.median:.2f}",
            f"{statistics.median(row.host_megabytes):.0f}",
            *([f"{statistics.median(row.gpu_megabytes):.0f}"] if row.gpu_megabytes else []),
        ]
        for row in results.footprints
    ]
    starts = len(results.footprints[0].first_face)
    head = ["", f"start to first face, s, median of {starts}", "peak memory, MB"]
    return table([*head, *(["GPU memory, MB"] if on_gpu else [])], cells)


def operators(found: Sequence[Operator]) -> str:
    """Time by operator; the rows of the rest are summed."""
    total = sum(one.milliseconds for one in found)
    cells = [_operator(one, total) for one in found[:OPERATORS]]
    rest = found[OPERATORS:]
    if rest:
        others = Operator(
            f"{len(rest)} more kinds",
            sum(one.calls for one in rest),
            sum(one.milliseconds for one in rest),
            sum(one.gflop for one in rest),
            sum(one.gigabytes for one in rest),
        )
        cells.append(_operator(others, total))
    return table(("", "calls", "ms", "share", "GFLOP", "GFLOP/s", "FLOP/byte"), cells)


def _operator(one: Operator, total: float) -> list[str]:
    computed = one.gflop > 0
    return [
        one.kind,
        str(one.calls),
        f"{one.milliseconds:.2f}",
        f"{one.milliseconds / total:.1%}",
        f"{one.gflop:.2f}" if computed else "",
        f"{one.rate:.0f}" if computed else "",
        f"{one.intensity:.1f}" if computed else "",
    ]


def dial(results: Results) -> str:
    """Quality and latency by number of steps."""
    cells, before = [], None
    for one in results.dial:
        gain = "" if before is None else f"{one.psnr - before:+.2f}"
        cells.append(
            [
                str(one.steps),
                f"{one.psnr:.2f}",
                gain,
                f"{one.ssim:.4f}",
                "" if one.nme is None else f"{100 * one.nme:.2f}",
                f"{statistics.median(one.milliseconds):.1f}",
            ]
        )
        before = one.psnr
    return table(("steps", "PSNR dB", "gain", "SSIM", "NME %", "ms"), cells)


def counted(count: int, one: str, several: str) -> str:
    """A number and its verb or noun: "1 is", "3 are", "none is"."""
    return f"{count or 'none'} {one if count < 2 else several}"
