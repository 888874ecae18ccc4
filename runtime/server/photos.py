"""`POST /restore`: photographs in, restored photographs or JSON out."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import sys
import uuid
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from runtime.faces.options import Interpolation, PhotoOptions
from runtime.server.calls import Calls
from runtime.server.protocol import MOST_DIGITS, ProtocolError
from runtime.server.service import RestoredPicture, Service

MEDIA = {"png": "image/png", "jpeg": "image/jpeg", "webp": "image/webp"}
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
PICTURES = 1000  # of one request
IN_PROGRESS = 4  # pictures of one request; more would fill the memory of a slow client's request
CHOICES = {
    "format": (*MEDIA, "json"),
    "picture": tuple(MEDIA),
    "upscale_background": tuple(Interpolation),
}
RANGES = {"max_face": (16, 4096), "enlarge": (1, 8)}


@dataclass(frozen=True)
class PhotoRequest:
    """What a client asks for, named as the command's options.

    Attributes:
        engine: name of a model; empty for the first.
        json: answer with a JSON document, which contains the picture in base64.
        picture: format of the picture, a key of `MEDIA`.
        options: how photographs are restored.
    """

    engine: str
    json: bool
    picture: str
    options: PhotoOptions


# File name, document, and encoded picture; without a picture, the document contains an error.
Answer = tuple[str, dict[str, Any], bytes]


def parse_options(given: Mapping[str, str]) -> PhotoRequest:
    """Parse the options of a request.

    Raises:
        ProtocolError: one is unknown or wrong.
    """
    numbers: dict[str, int] = {}
    for name, text in given.items():
        if name in CHOICES and text not in CHOICES[name]:
            raise ProtocolError(f"{name}: must be one of {', '.join(CHOICES[name])}; got {text!r}")
        if name in RANGES:
            low, high = RANGES[name]
            number = text.isascii() and text.isdigit() and len(text) < MOST_DIGITS
            if not number or not low <= int(text) <= high:
                raise ProtocolError(f"{name}: must be {low} to {high}, got {text!r}")
            numbers[name] = int(text)
        elif name not in CHOICES and name != "engine":
            known = ", ".join(["engine", *CHOICES, *RANGES])
            raise ProtocolError(f"unknown option {name!r}; the options are {known}")
    kind = given.get("format", "png")
    background = Interpolation(given.get("upscale_background", Interpolation.CUBIC))
    return PhotoRequest(
        engine=given.get("engine", ""),
        json=kind == "json",
        picture=given.get("picture", "png" if kind == "json" else kind),
        options=PhotoOptions(**numbers, background=background),
    )


class _Form(MultiPartParser):
    # In memory, as any other body, which --max-body limits. The default writes files of more than
    # 1 MB to /tmp, and a container's may be read-only.
    spool_max_size = sys.maxsize


class Photos:
    """Answers `/restore`."""

    def __init__(self, service: Service, calls: Calls) -> None:
        self._service, self._calls = service, calls

    async def restore(self, request: Request) -> Response:
        """Restore the picture in the body, or those of a form (`multipart/form-data`).

        Options are in the query, or fields of the form. A form of several pictures is answered as a
        stream, in order, each picture as soon as it and those before it are done: as
        `multipart/mixed`, or with `format=json` as JSON lines. A picture that cannot be restored is
        a JSON object with an `error` there.
        """
        request = self._calls.limited(request)
        if request.headers.get("content-type", "").startswith("multipart/form-data"):
            if request.headers.get("content-encoding", "identity").lower() != "identity":
                raise ProtocolError("a form must not be compressed; compress its pictures", 415)
            return await self._form(request)
        asked = parse_options(request.query_params)
        return _single(asked, await self._restored(request, asked, await self._calls.body(request)))

    async def _form(self, request: Request) -> Response:
        try:
            form = await _Form(request.headers, request.stream(), max_files=PICTURES).parse()
        except MultiPartException as error:
            raise ProtocolError(f"the form is malformed: {error.message}") from error
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(form.close)
            texts = {name: value for name, value in form.items() if isinstance(value, str)}
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            asked = parse_options({**request.query_params, **texts})
            if not files:
                raise ProtocolError("the form contains no file")
            if len(files) == 1:
                return _single(asked, await self._restored(request, asked, await files[0].read()))
            self._service.restorer(asked.engine)  # an unknown engine is refused before the stream
            results = self._each(request, asked, files, stack.pop_all())
        if asked.json:
            return StreamingResponse(_lines(results), media_type="application/x-ndjson")
        boundary = uuid.uuid4().hex
        return StreamingResponse(
            _parts(results, asked.picture, boundary),
            media_type=f"multipart/mixed; boundary={boundary}",
        )

    async def _each(
        self,
        request: Request,
        asked: PhotoRequest,
        files: Iterable[UploadFile],
        form: contextlib.AsyncExitStack,
    ) -> AsyncIterator[Answer]:
        """Restore files in order; closes the form at the end."""

        async def one(file: UploadFile) -> Answer:
            name = file.filename or ""
            try:
                done = await self._restored(request, asked, await file.read())
            except ProtocolError as error:
                return name, {"error": str(error), "status": error.status}, b""
            return name, done.document, done.content

        pending: deque[asyncio.Task[Answer]] = deque()
        try:
            for file in files:
                pending.append(asyncio.create_task(one(file)))
                if len(pending) >= IN_PROGRESS:
                    yield await pending.popleft()
            while pending:
                yield await pending.popleft()
        finally:
            for task in pending:  # the client left
                task.cancel()
            await form.aclose()

    async def _restored(
        self, request: Request, asked: PhotoRequest, data: bytes
    ) -> RestoredPicture:
        most, suffix = self._calls.limits.pixels, SUFFIXES[asked.picture]
        return await self._calls.run(
            request,
            None,
            lambda wanted: self._service.restore(
                asked.engine, data, most, asked.options, suffix, wanted
            ),
        )


def _single(asked: PhotoRequest, done: RestoredPicture) -> Response:
    timing = {"Server-Timing": f"restore;dur={done.document['ms']}"}
    if asked.json:
        image = base64.b64encode(done.content).decode()
        document = {**done.document, "image": image, "format": asked.picture}
        return JSONResponse(document, headers=timing)
    headers = {**_counts(done.document), **timing}
    return Response(done.content, media_type=MEDIA[asked.picture], headers=headers)


def _counts(document: Mapping[str, Any]) -> dict[str, str]:
    return {"X-Faces": str(document["restored"]), "X-Scale": str(document["scale"])}


async def _lines(results: AsyncIterator[Answer]) -> AsyncIterator[bytes]:
    async for name, document, picture in results:
        image = {"image": base64.b64encode(picture).decode()} if picture else {}
        yield json.dumps({"name": name, **document, **image}).encode() + b"\n"


async def _parts(
    results: AsyncIterator[Answer], picture: str, boundary: str
) -> AsyncIterator[bytes]:
    """The parts of a `multipart/mixed` body (RFC 2046, Section 5.1)."""
    async for name, document, content in results:
        headers = {"Content-Type": MEDIA[picture] if content else "application/json"}
        headers |= _counts(document) if content else {}
        # Escaped as in a form, so that a file name cannot add a header.
        for character, code in (('"', "%22"), ("\r", "%0D"), ("\n", "%0A")):
            name = name.replace(character, code)
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers.items())
        head = f"--{boundary}\r\n{lines}\r\n"
        yield head.encode() + (content or json.dumps(document).encode()) + b"\r\n"
    yield f"--{boundary}--\r\n".encode()
