"""`python -m benchmarks.docs`: generate pages from results, commands and recipes.

- `docs/results.md`, `docs/status.md`, `docs/reference/formats.md`, `docs/reference/checkpoints.md`:
  the text between
  `<!-- results: FILE TABLE -->` and `<!-- end -->` is replaced by a table of
  `benchmarks/results/FILE.json` (`report.tables`), with its machine and command.
- `docs/reference/cli.md`: every command's `--help`.
- `docs/reference/recipes.md`: every field of a recipe, from the docstrings of `train.recipe`.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from benchmarks import (
    crashes,
    detector,
    export_memory,
    fuzz,
    matrix,
    memory,
    memory_videos,
    portraits,
    serve,
)
from benchmarks.formats.outcomes import CHECKPOINTS
from benchmarks.formats.pictures import table as pictures
from benchmarks.report import results, tables
from dic.console import Parser, UserError, run
from dic.files import write_whole

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
TABLES = {
    "latency": tables.latency,
    "accuracy": tables.accuracy,
    "footprints": tables.footprints,
    "dial": tables.dial,
}
PLACE = re.compile(r"(<!-- results: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
COMMANDS = (
    *(
        "runtime.infer",
        "runtime.serve",
        "export.onnx",
        "export.inspect",
        "export.tensorrt",
        "export.triton",
    ),
    *(
        "train",
        "train.prepare",
        "train.pretrained",
        "benchmarks",
        "benchmarks.pipeline",
        "benchmarks.training",
    ),
    "benchmarks.serve",
    *("benchmarks.memory", "benchmarks.export_memory", "benchmarks.crashes"),
    *("benchmarks.fuzz", "benchmarks.matrix"),
    *("benchmarks.detector", "benchmarks.gate", "benchmarks.portraits", "benchmarks.demo"),
    "benchmarks.gpu_check",
)
MADE = "<!-- made by python -m benchmarks.docs -->\n\n"


# Tables of results files that are not `benchmarks.report.results.Results`.
OWN_FILES: dict[str, Callable[[bytes], str]] = {
    "detector": lambda content: detector.table(json.loads(content)),
    "matrix": lambda content: matrix.summary(json.loads(content)),
    "matrix-pictures": matrix.by_group("pictures"),
    "matrix-videos": matrix.by_group("videos"),
    "read-pictures": matrix.shown("pictures", pictures.read_formats),
    "refused-pictures": matrix.shown("pictures", pictures.refused_formats),
    "matrix-checkpoints": matrix.by_group("checkpoints"),
    **{
        f"checkpoints-by-{axis}": matrix.by_outcome("checkpoints", axis, CHECKPOINTS)
        for axis in ("file", "wrapper", "tensors")
    },
    "portraits": lambda content: portraits.table(json.loads(content)["portraits"]),
    "serving": serve.summary,
    "memory": lambda content: memory.summary(json.loads(content)["pictures"]),
    "memory-videos": lambda content: memory_videos.summary(json.loads(content)["videos"]),
    "export-memory": lambda content: export_memory.summary(json.loads(content)["exports"]),
    "fuzz": lambda content: fuzz.summary(json.loads(content)["kinds"]),
    "crashes": lambda content: crashes.summary(json.loads(content)["commands"]),
}


def filled(text: str) -> str:
    """A page's text with all its result tables generated again.

    Raises:
        UserError: a marker names an unknown table, or a results file that cannot be read.
    """

    def made(found: re.Match[str]) -> str:
        opening, file, table, closing = found.groups()
        if table in OWN_FILES:
            made_of = OWN_FILES[table]((RESULTS / f"{file}.json").read_bytes())
            return f"{opening}\n{made_of}\n\n{closing}"
        if table not in TABLES:
            raise UserError(f"docs: no table {table!r}; use {', '.join(TABLES)}")
        shown = results.read(RESULTS / f"{file}.json")
        machine = shown.machine
        source = (
            f"{machine.processor}, {machine.cores} cores, {machine.date}: `{machine.command}` "
            f"([results](../benchmarks/results/{file}.json))"
        )
        return f"{opening}\n{TABLES[table](shown)}\n\n{source}\n\n{closing}"

    return PLACE.sub(made, text)


def command_reference() -> str:
    """Every command's help, as printed on a terminal with 88 columns."""
    parts = ["# Command line\n\n" + MADE.rstrip()]
    environment = {**os.environ, "COLUMNS": "88", "NO_COLOR": "1"}
    for command in COMMANDS:
        line = [sys.executable, "-m", command, "--help"]
        done = subprocess.run(
            line, capture_output=True, text=True, check=True, cwd=ROOT, env=environment
        )
        parts.append(f"## python -m {command}\n\n```text\n{done.stdout.strip()}\n```")
    return "\n\n".join(parts) + "\n"


def recipe_reference() -> str:
    """Every field of a recipe with its default and meaning."""
    from train import recipe
    from train.model.network import NetworkConfig

    kinds: dict[str, Any] = {
        "": recipe.Recipe,
        "network": NetworkConfig,
        "data (kind = synthetic)": recipe.SyntheticData,
        "data (kind = files)": recipe.FileData,
        "augment": recipe.Augment,
        "degrade": recipe.Degrade,
        "gan": recipe.Gan,
    }
    parts = ["# Recipes\n\n" + MADE.rstrip()]
    for name, kind in kinds.items():
        meanings = dict(_attributes(inspect.getdoc(kind) or ""))
        head, _, _ = (inspect.getdoc(kind) or "").partition("\n\nAttributes:")
        rows = ["| field | default | meaning |", "|---|---|---|"]
        for field in dataclasses.fields(kind):
            default = ""
            if field.default is not dataclasses.MISSING:
                default = f"`{field.default!r}`"
            rows.append(f"| `{field.name}` | {default} | {meanings.get(field.name, '')} |")
        title = f"[{name}]" if name else "The recipe"
        parts.append(f"## {title}\n\n{head.strip()}\n\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _attributes(docstring: str) -> Iterator[tuple[str, str]]:
    """Names and meanings in the Attributes section of a docstring."""
    _, _, section = docstring.partition("Attributes:\n")
    for found in re.finditer(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
        meaning = " ".join(found[2].split())
        for name in found[1].split(", "):
            yield name, meaning[0].upper() + meaning[1:]


def pages() -> dict[Path, str]:
    """The up-to-date text of every generated page, by path."""
    pages = ("results.md", "status.md", "reference/formats.md", "reference/checkpoints.md")
    shown = [DOCS / page for page in pages]
    return {
        **{path: filled(path.read_text(encoding="utf-8")) for path in shown},
        DOCS / "reference" / "cli.md": command_reference(),
        DOCS / "reference" / "recipes.md": recipe_reference(),
    }


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.docs",
        description="Generate the pages that show results, commands and recipes.",
    )
    parser.parse_args(arguments)
    for path, text in pages().items():
        write_whole(path, text.encode())
    return 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
