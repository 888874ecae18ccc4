"""Work in threads, with refusals that do not keep their requests in memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread

from dic.engine_file import EngineError
from dic.memory import OverBudgetError
from runtime.pictures.header import ImageError
from runtime.server.model import ExpiredError, QueueFullError
from runtime.server.protocol import ProtocolError

Result = TypeVar("Result")

# HTTP status by exception; the first that fits.
STATUS: dict[type[Exception], int] = {
    QueueFullError: 429,
    ExpiredError: 504,
    TimeoutError: 504,
    EngineError: 503,
    OverBudgetError: 413,
    ImageError: 400,
    ValueError: 400,
}


@dataclass(frozen=True)
class _Refusal:
    message: str
    status: int


class Threads:
    """Threads that requests are processed in.

    Args:
        count: requests processed at once; others wait.
    """

    def __init__(self, count: int) -> None:
        self._limiter = anyio.CapacityLimiter(count)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Call `work()` in a thread.

        Raises:
            ProtocolError: `work` raised an exception of `STATUS`, or a `ProtocolError`.
        """
        answer = await anyio.to_thread.run_sync(_answer, work, limiter=self._limiter)
        if isinstance(answer, _Refusal):
            raise ProtocolError(answer.message, answer.status)
        return answer


def _answer(work: Callable[[], Result]) -> Result | _Refusal:
    # An exception that leaves the thread would refer to the frames that it passed, these to the
    # future that it is passed by, and that to the exception: a cycle, which keeps the request's
    # body in memory until Python looks for cycles.
    try:
        return work()
    except ProtocolError as error:
        return _Refusal(str(error), error.status)
    except tuple(STATUS) as error:
        status = next(status for kind, status in STATUS.items() if isinstance(error, kind))
        return _Refusal(str(error), status)
