"""Plots of results, as PNG. Figures are made without pyplot, so no display is needed."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import statistics
from benchmarks.measure.accuracy import Strip
from benchmarks.report.results import Results

WIDTH, DPI = 8.0, 120  # inches, and pixels per inch
# Okabe and Ito's palette, safe for colour-blind readers; peers are grey.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREYS = ("#555555", "#888888", "#aaaaaa", "#c4c4c4")
MARKERS = "osD^vPX*"
LEVELS = 8  # bars of the histogram; the last one holds all larger differences


def pictures(results: Results, strip: Strip | None) -> dict[str, bytes]:
    """The PNG files of the measured parts, by file name."""
    found: dict[str, bytes] = {}
    if results.latency:
        found["latency.png"] = _drawn(lambda axes: latency(axes, results), (WIDTH, 4.5))
    counted = [one for found in results.operators.values() for one in found if one.intensity > 0]
    if results.limits and counted:
        found["roofline.png"] = _drawn(lambda axes: roofline(axes, results), (WIDTH, 5))
    if results.dial:
        found["steps.png"] = _drawn(lambda axes: dial(axes, results), (WIDTH, 4))
    if any(row.differences for row in results.accuracy):
        found["errors.png"] = _drawn(lambda axes: errors(axes, results), (WIDTH, 4))
    if strip is not None:
        found["faces.png"] = faces(strip)
    return found


def _drawn(draw: Callable[[Axes], None], size: tuple[float, float]) -> bytes:
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _styles(results: Results) -> dict[str, dict[str, Any]]:
    """A colour and a marker for each contender, the same in all plots."""
    styles: dict[str, dict[str, Any]] = {}
    colours, greys = iter(COLOURS * 9), iter(GREYS * 9)
    for n, one in enumerate(results.contenders):
        colour = next(greys) if one.peer else next(colours)
        styles[one.name] = {"color": colour, "marker": MARKERS[n % len(MARKERS)]}
    return styles


def latency(axes: Axes, results: Results) -> None:
    """Faces per second by batch size, and the machine's limits.

    Bars are the medians' 95 % intervals; for too few runs, from the slowest to the fastest.
    """
    styles = _styles(results)
    for name in dict.fromkeys(row.name for row in results.latency):
        rows = [row for row in results.latency if row.name == name]
        batches = [row.batch for row in rows]
        spans = [row.interval or (min(row.milliseconds), max(row.milliseconds)) for row in rows]
        rates = np.array([row.faces_a_second for row in rows])
        low = [1000 * row.batch / high for row, (_, high) in zip(rows, spans, strict=True)]
        high = [1000 * row.batch / low for row, (low, _) in zip(rows, spans, strict=True)]
        bars = np.abs([rates - low, high - rates])
        peer = results.contender(name).peer
        style = "--" if peer else "-"
        axes.errorbar(
            batches, rates, yerr=bars, capsize=3, label=name, linestyle=style, markersize=5,
            linewidth=1.2 if peer else 2, **styles[name],
        )  # fmt: skip
    if results.limits:
        used = {one.precision for one in results.contenders}
        for precision, rate in results.limits.gflops.items():
            if precision in used:
                limit = rate / results.limits.network
                axes.axhline(limit, color="#999999", linewidth=1, linestyle=":")
                label = f"matrix products in {precision}"
                axes.annotate(
                    label, (1, limit), xycoords=("axes fraction", "data"), ha="right", va="bottom",
                    fontsize=8, color="#666666",
                )  # fmt: skip
    batches = sorted({row.batch for row in results.latency})
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()
    ticks = _ticks(axes.get_ylim())
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("batch size")
    axes.set_ylabel("faces per second")
    axes.grid(axis="y", color="#eeeeee")
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _ticks(limits: tuple[float, float]) -> list[float]:
    """A few round numbers between two limits."""
    low, high = limits
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        every = [step * 10.0**power for power in powers for step in steps]
        found = [tick for tick in every if low <= tick <= high]
        if len(found) >= 3:
            break
    return found


def roofline(axes: Axes, results: Results) -> None:
    """Operators and the machine's limits; a point's area is its share of the engine's time."""
    limits = results.limits
    assert limits is not None
    styles = _styles(results)
    seen = [one for found in results.operators.values() for one in found if one.intensity > 0]
    low = min(one.intensity for one in seen) / 2
    high = max(one.intensity for one in seen) * 2
    x = np.geomspace(low, high, 200)
    for n, (precision, rate) in enumerate(limits.gflops.items()):
        y = np.minimum(rate, limits.bandwidth * x)
        axes.plot(x, y, color="#444444", linestyle=("-", "--", ":")[n % 3], linewidth=1.5)
        axes.annotate(
            f"{precision}: {rate:.0f} GFLOP/s", (high, rate), ha="right", va="bottom", fontsize=8
        )
    axes.annotate(
        f"{limits.bandwidth:.0f} GB/s", (x[2], limits.bandwidth * x[2]), ha="left", va="bottom",
        fontsize=8, rotation=35, rotation_mode="anchor",
    )  # fmt: skip
    for name, found in results.operators.items():
        total = sum(one.milliseconds for one in found)
        shown = [one for one in found if one.intensity > 0]
        axes.scatter(
            [one.intensity for one in shown],
            [one.rate for one in shown],
            s=[3000 * one.milliseconds / total for one in shown],
            alpha=0.45, linewidths=0.5, edgecolors="white", label=name, **styles.get(name, {}),
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    rates = [
        one.rate for one in seen if one.milliseconds > 0.001 * sum(o.milliseconds for o in seen)
    ]
    axes.set_ylim(min(rates) / 2, max([*limits.gflops.values(), *rates]) * 1.6)
    axes.set_xlabel("operations per byte")
    axes.set_ylabel("GFLOP/s")
    legend = axes.legend(frameon=False, fontsize=8, loc="lower right")
    for handle in legend.legend_handles:
        if handle is not None:
            handle.set_sizes([40])  # type: ignore[attr-defined]


def dial(axes: Axes, results: Results) -> None:
    """PSNR and latency, one point for each number of steps."""
    times = [statistics.median(one.milliseconds) for one in results.dial]
    quality = [one.psnr for one in results.dial]
    axes.plot(times, quality, "-o", color=COLOURS[1], linewidth=2)
    for one, x, y in zip(results.dial, times, quality, strict=True):
        label = f"{one.steps} step{'s' if one.steps > 1 else ''}"
        axes.annotate(label, (x, y), xytext=(6, -12), textcoords="offset points", fontsize=9)
    floor = next((row.psnr for row in results.accuracy if row.step == 0), None)
    if floor is not None:
        axes.axhline(floor, color="#999999", linestyle=":", linewidth=1)
        axes.annotate(
            "bicubic", (0, floor), xycoords=("axes fraction", "data"), va="bottom", fontsize=8
        )
    axes.set_xlim(0, max(times) * 1.15)
    axes.set_xlabel("milliseconds per face")
    axes.set_ylabel("PSNR, dB")
    axes.grid(color="#eeeeee")


def errors(axes: Axes, results: Results) -> None:
    """A histogram of the differences from the reference in grey levels."""
    styles = _styles(results)
    rows = [row for row in results.accuracy if row.differences]
    width = 0.8 / len(rows)
    floor = 1.0
    for n, row in enumerate(rows):
        counts = np.array(row.differences, float)
        folded = np.append(counts[:LEVELS], counts[LEVELS:].sum())
        folded = np.pad(folded, (0, LEVELS + 1 - len(folded)))
        shares = folded / counts.sum()
        floor = min(floor, float(shares[shares > 0].min()))
        at = np.arange(LEVELS + 1) + (n - (len(rows) - 1) / 2) * width
        axes.bar(at, shares, width, label=row.name, color=styles[row.name]["color"])
    axes.set_yscale("log")
    axes.set_ylim(floor / 3, 2)
    labels = [*map(str, range(LEVELS)), f"≥ {LEVELS}"]
    axes.set_xticks(range(LEVELS + 1), labels)
    axes.set_xlabel("difference from PyTorch, grey levels")
    axes.set_ylabel("share of all values")
    axes.legend(frameon=False, fontsize=8)


def faces(strip: Strip) -> bytes:
    """One row per face, one column per contender."""
    names = list(strip.columns)
    count = len(strip.columns[names[0]])
    figure = Figure(figsize=(1.25 * len(names), 1.25 * count + 0.5), dpi=DPI, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    grid: Any = figure.subplots(count, len(names), squeeze=False)
    for column, name in enumerate(names):
        grid[0][column].set_title(_wrapped(name), fontsize=7)
        for row in range(count):
            axes = grid[row][column]
            axes.imshow(strip.columns[name][row], interpolation="nearest")
            axes.set_axis_off()
    return _png(figure)


def _wrapped(name: str) -> str:
    """A title broken into lines that fit the width of a face."""
    return "\n".join(textwrap.wrap(name, 18))
