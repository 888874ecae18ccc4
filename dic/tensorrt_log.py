"""TensorRT's messages: one logger for building, running and inspecting plans."""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import ModuleType
from typing import Any, Protocol

log = logging.getLogger(__name__)

LONGEST = 300  # characters of a message that is quoted in an error
NO_REASON = "no reason given"


class PlanLogger(Protocol):
    """What `plan_logger` returns, a subclass of `ILogger`.

    Attributes:
        first: the first error since `clear`, on one line; NO_REASON if there was none.
        last: the last one, likewise.
    """

    first: str
    last: str

    def clear(self) -> None:
        """Forget the errors."""
        ...


def plan_logger(trt: ModuleType, show: Callable[[str], None] | None = None) -> PlanLogger:
    """Return a logger that keeps errors, so that ours can quote them.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`; its `ILogger` is the base class.
        show: called with each message, "severity: text"; None sends them to `logging` (debug).
    """
    severities = trt.ILogger.Severity
    errors = (severities.INTERNAL_ERROR, severities.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.clear()

        def clear(self) -> None:
            self.first = self.last = NO_REASON

        def log(self, severity: Any, msg: str) -> None:
            line = " ".join(msg.split())
            if severity in errors:
                self.last = line[:LONGEST]
                self.first = self.last if self.first == NO_REASON else self.first
            if show is None:
                log.debug("%s: %s", severity.name.lower(), line)
            else:
                show(f"{severity.name.lower()}: {line}")

    logger: PlanLogger = Logger()
    return logger
