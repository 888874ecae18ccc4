"""The description of the HTTP interface (OpenAPI 3.1), for client generators and testers."""

from __future__ import annotations

from typing import Any

from runtime.server.photos import CHOICES, MEDIA, RANGES
from runtime.server.protocol import DTYPES

Json = dict[str, Any]

OBJECT: Json = {"type": "object"}
TEXT: Json = {"type": "string"}
BINARY: Json = {"schema": {"type": "string", "format": "binary"}}
RESTORE_OPTIONS = {
    "engine": "name of a model; the first by default",
    "format": "of the answer; png by default",
    "picture": "format of the picture in a JSON answer; png by default",
    "upscale_background": "how the picture around the faces is enlarged; cubic by default",
    "max_face": "wider faces are left as they are, pixels; 64 by default",
    "enlarge": "factor; by default what the smallest restored face needs",
}


def document() -> Json:
    """The OpenAPI document."""
    ready = {"200": _answer(_schema("Ready"), "ready"), "503": _answer(_schema("Ready"), "not")}
    paths: Json = {
        "/v2": {"get": _operation("The server's name, version and extensions")},
        "/v2/health/live": {"get": _operation("Whether the process answers")},
        "/v2/health/ready": {"get": _operation("Whether all models accept requests", **ready)},
        "/v2/models/stats": {"get": _operation("Triton's statistics of all models")},
        "/v2/repository/index": {
            "post": _operation(
                "All models and their state",
                **{"200": _answer({"type": "array", "items": OBJECT}, "models")},
            )
        },
        "/restore": {"post": _restore()},
        "/metrics": {
            "get": _operation(
                "Metrics for Prometheus",
                **{"200": {"description": "metrics", "content": {"text/plain": {"schema": TEXT}}}},
            )
        },
    }
    for prefix in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        names = [part[1:-1] for part in prefix.split("/") if part.startswith("{")]
        path = [{"name": name, "in": "path", "required": True, "schema": TEXT} for name in names]
        for ending, method, operation in (
            ("", "get", _operation("Metadata: inputs and outputs")),
            ("/ready", "get", _operation("Whether the model accepts requests", **ready)),
            ("/config", "get", _operation("Triton's model configuration")),
            ("/stats", "get", _operation("Triton's statistics")),
            ("/infer", "post", _infer()),
        ):
            paths[prefix + ending] = {"parameters": path, method: operation}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dic-toolkit",
            "version": "1",
            "description": "The Open Inference Protocol v2 with Triton's extensions, and the "
            "restoration of photographs.",
        },
        "security": [{}, {"key": []}, {"bearer": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            },
            "responses": {"Error": _answer(_schema("Error"), "what is wrong")},
            "schemas": _schemas(),
        },
    }


def _operation(summary: str, **answers: Json) -> Json:
    wrong = {"$ref": "#/components/responses/Error"}
    answers = {"200": _answer(OBJECT, summary), **answers, "4XX": wrong, "5XX": wrong}
    return {"summary": summary, "responses": answers}


def _answer(schema: Json, about: str) -> Json:
    return {"description": about, "content": {"application/json": {"schema": schema}}}


def _schema(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _infer() -> Json:
    answer = _answer(_schema("InferResponse"), "the outputs; binary data may follow the JSON")
    answer["content"]["application/octet-stream"] = BINARY
    body = {"application/json": {"schema": _schema("InferRequest")}}
    operation = _operation("Restore aligned faces", **{"200": answer})
    return {**operation, "requestBody": {"required": True, "content": body}}


def _restore() -> Json:
    parameters = []
    for name, about in RESTORE_OPTIONS.items():
        schema: Json = TEXT
        if name in CHOICES:
            schema = {"enum": list(CHOICES[name])}
        if name in RANGES:
            low, high = RANGES[name]
            schema = {"type": "integer", "minimum": low, "maximum": high}
        parameters.append({"name": name, "in": "query", "description": about, "schema": schema})
    answer = _answer(_schema("Restored"), "a picture or a document; of several files a stream")
    answer["content"] |= dict.fromkeys([*MEDIA.values(), "multipart/mixed"], BINARY)
    answer["content"]["application/x-ndjson"] = BINARY
    files = {"type": "array", "minItems": 1, "items": BINARY["schema"]}
    form = {"schema": {"type": "object", "required": ["file"], "properties": {"file": files}}}
    body = {"application/octet-stream": BINARY, "multipart/form-data": form}
    operation = _operation("Restore the faces of photographs", **{"200": answer})
    return {
        **operation,
        "parameters": parameters,
        "requestBody": {"required": True, "content": body},
    }


def _schemas() -> Json:
    def of(required: str, **properties: Json) -> Json:
        return {"type": "object", "required": required.split(), "properties": properties}

    def many(items: Json) -> Json:
        return {"type": "array", "items": items}

    number: Json = {"type": "integer", "minimum": 0}
    tensor = of(
        "name shape datatype",
        name=TEXT,
        shape=many(number),
        datatype={"enum": list(DTYPES)},
        parameters=OBJECT,
        data={"type": "array"},
    )
    output = of("name", name=TEXT, parameters=OBJECT)
    return {
        "Error": of("error", error=TEXT),
        "Ready": of("ready", ready={"type": "boolean"}),
        "InferRequest": of(
            "inputs", id=TEXT, parameters=OBJECT, inputs=many(tensor), outputs=many(output)
        ),
        "InferResponse": of(
            "model_name model_version outputs",
            id=TEXT,
            model_name=TEXT,
            model_version=TEXT,
            outputs=many(tensor),
        ),
        "Restored": of(
            "width height scale restored left faces ms image format",
            **dict.fromkeys(("width", "height", "scale", "restored", "left"), number),
            faces=many(_schema("Face")),
            ms={"type": "number"},
            image={"type": "string", "contentEncoding": "base64"},
            format={"enum": list(MEDIA)},
        ),
        "Face": of(
            "box angle matrix score landmarks scores",
            box={**many({"type": "integer"}), "description": "x, y, width, height, pixels"},
            angle={"type": "number"},
            matrix={"type": "array", "description": "2×3, pixels of the face → photograph"},
            score={"type": "number"},
            landmarks={"type": ["array", "null"], "description": "(x, y), pixels of the photo"},
            scores={"type": ["array", "null"]},
        ),
    }
