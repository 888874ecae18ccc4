"""Progress bars."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


class Progress(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """A tqdm bar on a terminal; otherwise one line at most every ten seconds, and one at the end.

    Takes tqdm's arguments.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.plain = not sys.stderr.isatty()
        self._printed: float = 0  # `n` when a plain line was last printed
        if self.plain:
            options |= {"mininterval": 10.0, "maxinterval": 10.0, "ncols": 0}
        super().__init__(*args, file=sys.stderr, dynamic_ncols=not self.plain, **options)  # type: ignore[call-overload]

    def say(self, line: str) -> None:
        """Print a line to standard error without disturbing the bar."""
        if self.plain or self.disable:
            print(line, file=sys.stderr, flush=True)
        else:
            self.write(line, file=sys.stderr)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        if not self.plain:
            super().display(msg, pos)
        elif self.n != self._printed:
            self._printed = self.n
            print(self, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.plain and not self.disable:
            self.display()
            self.disable = True
        super().close()
