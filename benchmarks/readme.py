"""`python -m benchmarks.readme`: the README's tables, made of the results they quote.

Between `<!-- results: FILE TABLE -->` and `<!-- end -->` stands what `benchmarks.tables` makes of
`benchmarks/results/FILE.json`, and below it what it was measured on and by which command.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NoReturn

from benchmarks import results, tables
from runtime.console import Parser, UserError, run, write_whole

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"
TABLES = {
    "latency": tables.latency,
    "accuracy": tables.accuracy,
    "footprints": tables.footprints,
    "dial": tables.dial,
}
PLACE = re.compile(r"(<!-- results: (\S+) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A text with all its tables made anew.

    Raises:
        UserError: a results file or a table that is named is not there.
    """

    def made(found: re.Match[str]) -> str:
        opening, file, table, closing = found.groups()
        if table not in TABLES:
            raise UserError(f"README.md: no table {table!r}; there are {', '.join(TABLES)}")
        shown = results.read(RESULTS / f"{file}.json")
        machine = shown.machine
        source = (
            f"{machine.processor}, {machine.cores} cores, {machine.date}: `{machine.command}` "
            f"([results](benchmarks/results/{file}.json))"
        )
        return f"{opening}\n{TABLES[table](shown)}\n\n{source}\n\n{closing}"

    return PLACE.sub(made, text)


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.readme",
        description="Make the README's tables anew from benchmarks/results.",
    )
    parser.parse_args(arguments)
    write_whole(README, filled(README.read_text()).encode())
    return 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
