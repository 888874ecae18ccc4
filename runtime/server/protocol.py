"""The Open Inference Protocol, version 2: tensors as JSON or as binary data after it.

https://github.com/kserve/open-inference-protocol, and Triton's extension "binary tensor data": the
header `Inference-Header-Content-Length` gives the length of the JSON, raw little-endian data follow
in the order of the tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dic.documents import parse_json

Arrays = dict[str, NDArray[Any]]

HEADER_LENGTH = "inference-header-content-length"
DTYPES = {"UINT8": "uint8", "FP32": "float32", "FP16": "float16", "INT64": "int64"}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
LARGEST_BATCH = 4096  # faces of one request
MOST_DIGITS = 12  # of a length in bytes


class ProtocolError(Exception):
    """A request that cannot be served; the message is for the client.

    Attributes:
        status: HTTP status.
    """

    def __init__(self, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class InferRequest:
    """A request for inference.

    Attributes:
        identifier: of the client; returned with the answer.
        inputs: arrays by name.
        outputs: names of the outputs that are asked for, and whether each is wanted as binary
            data; None asks for all.
        binary: whether outputs are binary data where the request does not say so by output.
        timeout: seconds after which the answer is no longer wanted; None without limit.
    """

    identifier: str
    inputs: Arrays
    outputs: dict[str, bool] | None
    binary: bool
    timeout: float | None


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Parse the body of a POST to `/v2/models/NAME/infer`.

    Args:
        header_length: the value of the header `Inference-Header-Content-Length`; None if absent.

    Raises:
        ProtocolError: malformed; says where.
    """
    length = len(body)
    if header_length is not None:
        number = header_length.isdecimal() and len(header_length) <= MOST_DIGITS
        if not number or int(header_length) > len(body):
            raise ProtocolError(f"Inference-Header-Content-Length: {header_length} is not possible")
        length = int(header_length)
    try:
        document = parse_json(body[:length])
    except ValueError as error:
        raise ProtocolError(f"the request is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise ProtocolError("the request must be a JSON object")
    parameters = _object(document.get("parameters", {}), "parameters")
    binary_data = memoryview(body)[length:]
    inputs: Arrays = {}
    for given in _objects(document.get("inputs"), "inputs"):
        name, array, binary_data = _input(given, binary_data)
        if name in inputs:
            raise ProtocolError(f"input {name} is given twice")
        inputs[name] = array
    if len(binary_data):
        raise ProtocolError(f"{len(binary_data)} bytes follow that belong to no input")
    outputs = None
    binary = bool(parameters.get("binary_data_output", False))
    if document.get("outputs"):
        outputs = {}
        for wanted in _objects(document["outputs"], "outputs"):
            own = _object(wanted.get("parameters", {}), "parameters")
            outputs[str(wanted.get("name"))] = bool(own.get("binary_data", binary))
    return InferRequest(
        str(document.get("id", "")), inputs, outputs, binary, _timeout(parameters.get("timeout"))
    )


def _timeout(given: Any) -> float | None:
    """Triton's request parameter `timeout`, in microseconds; 0 is none."""
    if given is None or given == 0:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ProtocolError(f"timeout: must be microseconds, got {given!r}")
    return float(given) / 1e6


def _object(given: Any, what: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ProtocolError(f"{what}: must be an object")
    return given


def _objects(given: Any, what: str) -> list[dict[str, Any]]:
    if not isinstance(given, list):
        raise ProtocolError(f"{what}: must be a list of tensors")
    return [_object(item, what) for item in given]


def _input(given: dict[str, Any], data: memoryview) -> tuple[str, NDArray[Any], memoryview]:
    name = given.get("name")
    if not isinstance(name, str):
        raise ProtocolError("an input has no name")
    dtype = data_type(name, given.get("datatype"))
    shape = checked_shape(name, given.get("shape"))
    size = _object(given.get("parameters", {}), f"{name}: parameters").get("binary_data_size")
    if size is None:
        return name, _from_json(name, given.get("data"), dtype, shape), data
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(data):
        raise ProtocolError(f"{name}: binary_data_size {size!r}, but {len(data)} bytes follow")
    return name, from_bytes(name, data[:size], dtype, shape), data[size:]


def data_type(name: str, given: Any) -> str:
    """The NumPy dtype of a protocol's data type.

    Raises:
        ProtocolError: no engine has such a tensor.
    """
    if not isinstance(given, str) or given not in DTYPES:
        raise ProtocolError(f"{name}: datatype must be one of {', '.join(DTYPES)}, got {given!r}")
    return DTYPES[given]


def checked_shape(name: str, given: Any) -> tuple[int, ...]:
    """A shape of whole numbers, none negative, of at most `LARGEST_BATCH` faces.

    Raises:
        ProtocolError: it is none.
    """
    sizes = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else None
    whole = sizes is not None and all(
        isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**31 for size in sizes
    )
    if not whole or not sizes:
        raise ProtocolError(f"{name}: shape must be a list of sizes, got {given!r}")
    if sizes[0] > LARGEST_BATCH:
        raise ProtocolError(f"{name}: a request has at most {LARGEST_BATCH} faces, got {sizes[0]}")
    return tuple(sizes)


def from_bytes(
    name: str, data: bytes | memoryview, dtype: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    """An array of raw little-endian data.

    Raises:
        ProtocolError: there are more or fewer bytes than the shape has.
    """
    wanted = int(np.prod([float(size) for size in shape])) * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise ProtocolError(f"{name}: {list(shape)} {dtype} has {wanted} bytes, got {len(data)}")
    return np.frombuffer(data, np.dtype(dtype).newbyteorder("<")).reshape(shape)


def _from_json(name: str, data: Any, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """An array of nested or flat lists, row-major."""
    try:
        array = np.asarray(data)
        if array.dtype.kind not in "iuf":
            raise ValueError("not numbers")
        if dtype == "uint8" and (array.dtype.kind == "f" or array.min() < 0 or array.max() > 255):
            raise ValueError("not whole numbers of 0 to 255")
        return array.astype(dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"{name}: data does not fit {list(shape)} {dtype}: {error}") from error


def build_response(
    model: str, version: str, request: InferRequest, outputs: Mapping[str, NDArray[Any]]
) -> tuple[bytes, int | None]:
    """Build the body of an answer.

    Returns:
        the body, and the length of its JSON if binary data follow; None without.

    Raises:
        ProtocolError: an output that is asked for does not exist.
    """
    wanted = request.outputs or dict.fromkeys(outputs, request.binary)
    tensors, binary = [], []
    for name, as_binary in wanted.items():
        if name not in outputs:
            raise ProtocolError(f"output {name} does not exist; the outputs are {list(outputs)}")
        array = outputs[name]
        tensor: dict[str, Any] = {
            "name": name,
            "datatype": NAMES[array.dtype.name],
            "shape": list(array.shape),
        }
        if as_binary:
            data = np.ascontiguousarray(array).tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:
            tensor["data"] = array.ravel().tolist()
        tensors.append(tensor)
    document: dict[str, Any] = {"model_name": model, "model_version": version, "outputs": tensors}
    if request.identifier:
        document["id"] = request.identifier
    header = json.dumps(document).encode()
    return header + b"".join(binary), len(header) if binary else None
