"""Reports: Markdown with PNG files, and a single HTML page that contains the pictures."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterator
from pathlib import Path

import markdown

from benchmarks.contenders.gather import REFERENCE
from benchmarks.measure import statistics
from benchmarks.measure.accuracy import Strip
from benchmarks.report import tables
from benchmarks.report.results import Results, dumps
from dic.files import write_together

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 13px }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; white-space: nowrap }
th { border-bottom: 2px solid #888 }
img { max-width: 100%; height: auto }
code { background: #f4f4f4; padding: .1rem .25rem; overflow-wrap: anywhere }
"""


def write_report(results: Results, strip: Strip | None, folder: Path) -> None:
    """Write `report.html` (self-contained), `report.md` with its PNG files, and `results.json`.

    Args:
        strip: faces to show, or None.
        folder: created if necessary.

    Raises:
        UserError: a file cannot be written.
    """
    from benchmarks.report.plots import pictures

    plots = pictures(results, strip)
    text = "\n\n".join(_parts(results, set(plots))) + "\n"
    page = _page(text, plots)
    files: dict[Path, bytes] = {folder / name: png for name, png in plots.items()}
    files[folder / "report.md"] = text.encode()
    files[folder / "report.html"] = page.encode()
    files[folder / "results.json"] = dumps(results)
    write_together(files)


def _parts(results: Results, plots: set[str]) -> Iterator[str]:
    """The paragraphs of the Markdown report.

    Args:
        plots: the names of the plots that exist.
    """

    def picture(name: str, what: str) -> Iterator[str]:
        if name in plots:
            yield f"![{what}]({name})"

    yield "# Comparison with PyTorch"
    yield summary(results)
    if results.latency:
        yield "## Latency"
        yield tables.latency(results)
        yield from (f"- {note}" for note in tables.latency_notes(results))
        yield from picture("latency.png", "Faces per second by batch size")
        if "latency.png" in plots:
            yield "Bars: 95 % intervals of the medians; for fewer than 6 runs, slowest to fastest."
    if results.footprints:
        yield "## Start and memory"
        yield tables.footprints(results)
    if results.operators:
        yield "## Time by operator"
        for name, found in results.operators.items():
            yield f"`{name}`, one face, measured with ONNX Runtime's profiler:"
            yield tables.operators(found)
        yield from picture("roofline.png", "Operators and the machine's limits")
        if "roofline.png" in plots:
            yield "Each point is a kind of operator; its area is its share of the engine's time."
    if results.accuracy:
        yield "## Accuracy"
        yield (
            f"On {results.faces}; uint8 RGB, 8 pixels cropped at every edge, SSIM with an 11×11 "
            "Gaussian window; NME is relative to the distance between the eyes."
        )
        yield tables.accuracy(results)
        yield from picture("errors.png", "Differences from PyTorch in grey levels")
        yield from picture("faces.png", "Faces")
    if results.dial:
        yield "## Quality by number of steps"
        yield tables.dial(results)
        yield from picture("steps.png", "Quality against latency")
    yield from _conditions(results)


def _conditions(results: Results) -> Iterator[str]:
    """The paragraphs on the machine, the contenders and what was left out."""
    machine = results.machine
    yield "## Measurement conditions"
    yield f"`{machine.command}`"
    facts = {
        "date": machine.date,
        "commit": machine.commit or "unknown",
        "processor": f"{machine.processor}, {machine.cores} cores, {' '.join(machine.features)}",
        "clocks": ", ".join(f"{clock} MHz" for clock in machine.megahertz) or "unknown",
        "GPUs": "; ".join(machine.gpus) or "none",
        "other work": f"used {machine.busy:.0%} of the processors before the run",
        "system": machine.system,
        "versions": ", ".join(f"{name} {version}" for name, version in machine.versions.items()),
        "reference": f"{results.reference.get('file')}, SHA-256 {results.reference.get('sha256')}",
    }
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {one.name}: {one.backend} on {one.device}" for one in results.contenders)
    if results.missing:
        yield "Left out:"
        yield "\n".join(f"- {line}" for line in results.missing)


def summary(results: Results) -> str:
    """The main result of each engine, one line each."""
    lines = []
    for one in results.contenders[1:]:
        if one.peer:
            continue
        ratios = [
            f"{statistics.median(row.speed):.2f}× at batch {row.batch}"
            for row in results.latency
            if row.name == one.name
        ]
        speed = f"{', '.join(ratios)} as fast as {REFERENCE}" if ratios else ""
        lost = ""
        rows = {row.name: row for row in results.accuracy}
        if one.name in rows and REFERENCE in rows:
            engine, eager = rows[one.name], rows[REFERENCE]
            decibels = round(eager.psnr - engine.psnr, 4) + 0.0  # + 0.0 turns -0.0 into 0.0
            lost = f"PSNR loss {decibels:.4f} dB, largest difference {engine.largest} grey levels"
        lines.append(
            f"- **{one.name}** ({one.precision}): " + "; ".join(filter(None, [speed, lost]))
        )
    return "\n".join(lines)


def _page(text: str, plots: dict[str, bytes]) -> str:
    """The Markdown text as an HTML page with embedded pictures."""
    body = markdown.markdown(text, extensions=["tables"])
    for name, png in plots.items():
        data = base64.b64encode(png).decode()
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{data}"')
    title = html.escape(re.search(r"# (.*)", text)[1])  # type: ignore[index]
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )
