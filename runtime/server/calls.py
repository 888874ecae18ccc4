"""What HTTP requests share: bodies of limited size, and work in threads that may be abandoned."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request
from starlette.types import Message

from dic.engine_file import EngineError
from dic.memory import OverBudgetError
from runtime.pictures.header import ImageError
from runtime.server.model import ExpiredError, QueueFullError
from runtime.server.protocol import ProtocolError

Result = TypeVar("Result")
Wanted = Callable[[], bool]


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        body: bytes.
        pixels: of a picture, before it is decoded.
        threads: requests processed at once; others wait.
    """

    body: int
    pixels: int
    threads: int


class Calls:
    """Reads requests and does their work in threads, within limits."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._threads = anyio.CapacityLimiter(limits.threads)

    def limited(self, request: Request) -> Request:
        """The request, whose body is refused as soon as it is known to be too long (413)."""
        most, received = self.limits.body, 0
        announced = request.headers.get("content-length", "")
        if announced.isdecimal() and int(announced) > most:
            raise ProtocolError(f"the body has {announced} bytes; at most {most} are accepted", 413)

        async def receive() -> Message:
            nonlocal received
            message = await request.receive()
            received += len(message.get("body", b""))
            if received > most:
                raise ProtocolError(f"the body is too long; at most {most} bytes are accepted", 413)
            return message

        return Request(request.scope, receive)

    async def run(
        self, request: Request, timeout: float | None, work: Callable[[Wanted], Result]
    ) -> Result:
        """Call `work(wanted)` in a thread.

        Args:
            request: with its body read.
            timeout: seconds; None for no limit.
            work: `wanted()` turns False when the client leaves or the timeout passes.

        Raises:
            ProtocolError: what `work` raised, with its HTTP status.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        gone = False

        def wanted() -> bool:
            return not gone and (deadline is None or time.monotonic() < deadline)

        async def watch() -> None:
            nonlocal gone
            while (await request.receive())["type"] != "http.disconnect":
                pass
            gone = True

        watcher = asyncio.create_task(watch())
        try:
            return await anyio.to_thread.run_sync(work, wanted, limiter=self._threads)
        except QueueFullError as error:
            raise ProtocolError(str(error), 429) from error
        except ExpiredError as error:
            raise ProtocolError(str(error), 504) from error
        except EngineError as error:
            raise ProtocolError(str(error), 503) from error
        except OverBudgetError as error:
            raise ProtocolError(str(error), 413) from error
        except (ValueError, ImageError) as error:
            raise ProtocolError(str(error)) from error
        finally:
            watcher.cancel()
