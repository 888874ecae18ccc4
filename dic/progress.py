"""Progress bars."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm


class Progress(tqdm):  # type: ignore[type-arg]  # generic in its stubs only
    """A tqdm bar on a terminal; otherwise one line at most every ten seconds, and one at the end.

    Takes tqdm's arguments. Unlike tqdm it measures time by a clock that is never set, so that a
    correction of the system's clock neither stops the bar nor makes its rate negative.
    """

    monitor_interval = 0  # its thread compares with the system's clock

    def __init__(self, *args: Any, **options: Any) -> None:
        self.plain = not sys.stderr.isatty()
        self._printed: float = 0  # `n` when a plain line was last printed
        if self.plain:
            options |= {"mininterval": 10.0, "ncols": 0}
        options.setdefault("miniters", 1)  # look at the clock each time, without a monitor
        super().__init__(*args, file=sys.stderr, dynamic_ncols=not self.plain, **options)  # type: ignore[call-overload]

    @property
    def _time(self) -> Callable[[], float]:
        return time.monotonic

    @_time.setter
    def _time(self, _: object) -> None:
        """Keep the clock when tqdm sets its own."""

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
