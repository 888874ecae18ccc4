"""The server's gRPC side: protocol version 2, by the messages that tritonclient generates."""

from __future__ import annotations

import hmac
import time
from collections.abc import Iterable, Mapping
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from runtime.server.protocol import NAMES, ProtocolError, checked_shape, data_type, from_bytes
from runtime.server.service import Service
from runtime.server.threads import Threads

STATUS = {
    404: grpc.StatusCode.NOT_FOUND,
    429: grpc.StatusCode.UNAVAILABLE,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
OPEN = ("/ServerLive", "/ServerReady")  # without a key, for load balancers
REFUSED = "the API key is missing or wrong"
# Fields of InferTensorContents by data type.
CONTENTS = {"UINT8": "uint_contents", "FP32": "fp32_contents", "INT64": "int64_contents"}


SERVICE = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers the protocol's calls. Methods are named as in the protocol.

    Args:
        threads: requests processed at once; others wait.
    """

    def __init__(self, service: Service, threads: int) -> None:
        self._service = service
        self._threads = Threads(threads)

    async def ServerLive(self, request: Any, context: Any) -> Any:
        return pb.ServerLiveResponse(live=True)

    async def ServerReady(self, request: Any, context: Any) -> Any:
        return pb.ServerReadyResponse(ready=self._service.ready)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        async with _errors(context):
            ready = self._service.model_ready(request.name, request.version)
            return pb.ModelReadyResponse(ready=ready)

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        return pb.ServerMetadataResponse(**self._service.server_metadata())

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        async with _errors(context):
            return pb.ModelMetadataResponse(**self._service.metadata(request.name, request.version))

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        async with _errors(context):
            known = self._service.config(request.name, request.version)
            config = pb.ModelConfigResponse().config
            config.name, config.backend = known["name"], known["backend"]
            config.platform, config.max_batch_size = known["platform"], known["max_batch_size"]
            config.dynamic_batching.SetInParent()
            for kind in ("input", "output"):
                for tensor in known[kind]:
                    added = getattr(config, kind).add()
                    added.name = tensor["name"]
                    added.data_type = (
                        type(added)
                        .DESCRIPTOR.fields_by_name["data_type"]
                        .enum_type.values_by_name[tensor["data_type"]]
                        .number
                    )
                    added.dims.extend(tensor["dims"])
            return pb.ModelConfigResponse(config=config)

    async def ModelStatistics(self, request: Any, context: Any) -> Any:
        async with _errors(context):
            known = self._service.statistics(request.name, request.version)
            return pb.ModelStatisticsResponse(
                model_stats=[_statistics(model) for model in known["model_stats"]]
            )

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        models = [pb.RepositoryIndexResponse.ModelIndex(**m) for m in self._service.index()]
        return pb.RepositoryIndexResponse(models=models)

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        async with _errors(context):
            model = self._service.model(request.model_name, request.model_version)
            feed = _inputs(request)
            remaining = context.time_remaining()
            deadline = None if remaining is None else time.monotonic() + remaining

            def wanted() -> bool:
                in_time = deadline is None or time.monotonic() < deadline
                return in_time and not context.cancelled()

            outputs = await self._threads.run(lambda: model.infer(feed, wanted))
            return _response(request, model.name, model.version, outputs)


def _statistics(known: Mapping[str, Any]) -> Any:
    durations = {
        name: pb.StatisticDuration(**duration)
        for name, duration in known["inference_stats"].items()
    }
    return pb.ModelStatistics(
        name=known["name"],
        version=known["version"],
        last_inference=known["last_inference"],
        inference_count=known["inference_count"],
        execution_count=known["execution_count"],
        inference_stats=pb.InferStatistics(**durations),
    )


def _inputs(request: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a request, from raw data or from typed contents.

    Raises:
        ProtocolError: malformed; says where.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise ProtocolError(f"{len(request.inputs)} inputs, but {len(raw)} raw contents")
    feed: dict[str, NDArray[Any]] = {}
    for index, tensor in enumerate(request.inputs):
        name, dtype = tensor.name, data_type(tensor.name, tensor.datatype)
        shape = checked_shape(name, list(tensor.shape))
        if name in feed:
            raise ProtocolError(f"input {name} is given twice")
        if raw:
            feed[name] = from_bytes(name, raw[index], dtype, shape)
            continue
        if tensor.datatype not in CONTENTS:
            raise ProtocolError(f"{name}: {tensor.datatype} is accepted as raw contents only")
        values = np.asarray(getattr(tensor.contents, CONTENTS[tensor.datatype]))
        if values.size != np.prod(shape, dtype=float):
            raise ProtocolError(f"{name}: {values.size} values do not fit {list(shape)}")
        if dtype == "uint8" and values.size and values.max() > 255:
            raise ProtocolError(f"{name}: values must be 0 to 255")
        feed[name] = values.astype(dtype).reshape(shape)
    return feed


def _response(request: Any, name: str, version: str, outputs: dict[str, NDArray[Any]]) -> Any:
    response = pb.ModelInferResponse(model_name=name, model_version=version, id=request.id)
    for wanted in [output.name for output in request.outputs] or list(outputs):
        if wanted not in outputs:
            raise ProtocolError(f"output {wanted} does not exist; the outputs are {list(outputs)}")
        array = outputs[wanted]
        tensor = response.outputs.add()
        tensor.name, tensor.datatype = wanted, NAMES[array.dtype.name]
        tensor.shape.extend(array.shape)
        response.raw_output_contents.append(np.ascontiguousarray(array).tobytes())
    return response


class _errors:  # noqa: N801  # reads as a statement
    """Turns a `ProtocolError` into a gRPC status."""

    def __init__(self, context: Any) -> None:
        self._context = context

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ProtocolError):
            code = STATUS.get(error.status, grpc.StatusCode.INVALID_ARGUMENT)
            await self._context.abort(code, str(error))


def _handlers(servicer: Servicer) -> grpc.GenericRpcHandler:
    """The servicer's methods, which parse their messages themselves.

    gRPC answers bytes that are no message with UNKNOWN and a traceback in the log.
    """

    def handler(name: str) -> grpc.RpcMethodHandler:
        message = getattr(pb, SERVICE.methods_by_name[name].input_type.name)
        method = getattr(servicer, name)

        async def parsed(data: bytes, context: Any) -> Any:
            try:
                request = message.FromString(data)
            except DecodeError:
                await context.abort(
                    grpc.StatusCode.INVALID_ARGUMENT, f"the request is not a {message.__name__}"
                )
            return await method(request, context)

        return grpc.unary_unary_rpc_method_handler(
            parsed, response_serializer=lambda response: response.SerializeToString()
        )

    names = [name for name in SERVICE.methods_by_name if name in vars(Servicer)]
    return grpc.method_handlers_generic_handler(
        SERVICE.full_name, {name: handler(name) for name in names}
    )


def allowed(method: str, metadata: Iterable[tuple[str, Any]] | None, key: str) -> bool:
    """Whether a call has the key, or needs none.

    Args:
        method: the call's name, such as "/inference.GRPCInferenceService/ModelInfer".
        metadata: that the client sent; the key is in `authorization` or `x-api-key`.
    """
    sent = {name: str(value) for name, value in metadata or ()}
    given = sent.get("x-api-key", sent.get("authorization", "").removeprefix("Bearer "))
    return method.endswith(OPEN) or hmac.compare_digest(given.encode(), key.encode())


class _Key(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without the key."""

    def __init__(self, key: str) -> None:
        self._key = key

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        if allowed(details.method, details.invocation_metadata, self._key):
            return await continuation(details)

        async def refuse(_: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, REFUSED)

        return grpc.unary_unary_rpc_method_handler(refuse)


async def start(
    service: Service, address: str, key: str | None, most_bytes: int, threads: int
) -> tuple[grpc.aio.Server, int]:
    """Start the gRPC server.

    Args:
        address: "HOST:PORT"; port 0 takes a free one.
        most_bytes: of a message. gRPC's own limit of 4 MiB is too small for batches.

    Returns:
        the server and its port; 0 if the port is in use.
    """
    options = [
        ("grpc.max_receive_message_length", most_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a port in use is an error
    ]
    server = grpc.aio.server(options=options, interceptors=[_Key(key)] if key else [])
    server.add_generic_rpc_handlers((_handlers(Servicer(service, threads)),))
    try:
        port = server.add_insecure_port(address)
    except RuntimeError:
        return server, 0
    await server.start()
    return server, port
