"""What HTTP requests share: bodies of limited size, and work in threads that may be abandoned."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Message

from runtime.server.protocol import ProtocolError
from runtime.server.threads import Threads

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
        self._threads = Threads(limits.threads)

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

    async def body(self, request: Request) -> bytes:
        """The body of a limited request, decompressed if it is compressed by gzip or deflate.

        Raises:
            ProtocolError: too long, before or after (413), or compressed otherwise (415).
        """
        data = await request.body()
        encoding = request.headers.get("content-encoding", "identity").lower()
        if encoding == "identity":
            return data
        if encoding not in ("gzip", "deflate"):
            raise ProtocolError(f"content-encoding {encoding!r}: must be gzip or deflate", 415)
        # Seconds for a large body, in which other requests must be answered.
        return await self._threads.run(lambda: _decompressed(data, encoding, self.limits.body))

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
            return await self._threads.run(lambda: work(wanted))
        finally:
            watcher.cancel()


def _decompressed(data: bytes, encoding: str, most: int) -> bytes:
    """A body compressed by gzip, of one or more members (RFC 1952, 2.2), or by deflate."""
    plain = bytearray()
    while data:
        decoder = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with the header of either
        try:
            plain += decoder.decompress(data, most + 1 - len(plain))
        except zlib.error as error:
            raise ProtocolError(f"the body is not compressed by {encoding}: {error}") from error
        if len(plain) > most:
            raise ProtocolError(f"the body is too long; at most {most} bytes are accepted", 413)
        if not decoder.eof:
            raise ProtocolError(f"the body compressed by {encoding} is cut off")
        data = decoder.unused_data
    return bytes(plain)
