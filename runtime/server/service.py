"""What the server does, independent of the protocol that asks for it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from dic.memory import Memory
from runtime.faces.detect import Detector, search_bytes
from runtime.faces.options import PhotoOptions
from runtime.faces.restore import Restorer
from runtime.jobs.needs import photo_need
from runtime.jobs.outputs import face_entry
from runtime.pictures.encode import MAX_SIDES, encode_picture
from runtime.pictures.files import decode_picture, read_header
from runtime.pictures.header import check_size
from runtime.server.model import ServedModel, SharedEngine
from runtime.server.protocol import NAMES, ProtocolError

EXTENSIONS = ["binary_tensor_data", "model_configuration", "model_repository", "statistics"]


@dataclass(frozen=True)
class RestoredPicture:
    """An answer to `/restore`.

    Attributes:
        content: the encoded picture.
        document: width, height, scale, the faces as `--landmarks` describes them, and the time
            that it took, in ms.
    """

    content: bytes
    document: dict[str, Any]


class Service:
    """Named models, and the operations on them. Thread-safe.

    Args:
        models: all versions of all models; of a name, the highest version is the default.
        detector: detects faces in photographs; the installed YuNet if None.
        memory: that photographs in progress share; None for no limit.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        detector: Detector | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.models = list(models)
        self._memory = memory or Memory(None)
        self.stopping = False
        self._restorers = {
            id(model): Restorer(SharedEngine(model), detector=detector) for model in self.models
        }

    @property
    def ready(self) -> bool:
        """Whether all models accept requests: False also while the server stops."""
        return not self.stopping and all(model.ready for model in self.models)

    def model(self, name: str, version: str = "") -> ServedModel:
        """The model of a name; without a version, the highest.

        Raises:
            ProtocolError: there is none (404).
        """
        named = [model for model in self.models if model.name == name]
        if not named:
            known = ", ".join(sorted({model.name for model in self.models}))
            raise ProtocolError(f"unknown model {name!r}; the models are {known}", 404)
        if not version:
            return max(named, key=lambda model: int(model.version))
        for model in named:
            if model.version == version:
                return model
        raise ProtocolError(f"model {name} has no version {version!r}", 404)

    def server_metadata(self) -> dict[str, Any]:
        try:
            number = version("dic-toolkit")
        except PackageNotFoundError:
            number = "0"
        return {"name": "dic-toolkit", "version": number, "extensions": EXTENSIONS}

    def index(self) -> list[dict[str, str]]:
        """Triton's model repository extension: all models and their state."""
        return [
            {
                "name": model.name,
                "version": model.version,
                "state": "READY" if model.ready else "UNAVAILABLE",
                "reason": model.failure,
            }
            for model in self.models
        ]

    def metadata(self, name: str, version: str) -> dict[str, Any]:
        model = self.model(name, version)
        engine = model.engine
        return {
            "name": model.name,
            "versions": [known.version for known in self.models if known.name == name],
            "platform": engine.backend,
            **{
                kind: [
                    {
                        "name": tensor.name,
                        "datatype": NAMES[tensor.dtype],
                        "shape": [size or -1 for size in tensor.shape],
                    }
                    for tensor in tensors
                ]
                for kind, tensors in (("inputs", engine.inputs), ("outputs", engine.outputs))
            },
        }

    def config(self, name: str, version: str) -> dict[str, Any]:
        """Triton's model configuration extension, as far as it applies."""
        model = self.model(name, version)
        engine = model.engine
        return {
            "name": model.name,
            "platform": engine.backend,
            "backend": "dic",
            "max_batch_size": model.max_batch,
            "dynamic_batching": {"max_queue_delay_microseconds": 0},
            **{
                kind: [
                    {
                        "name": tensor.name,
                        "data_type": f"TYPE_{NAMES[tensor.dtype]}",
                        "dims": list(tensor.shape[1:]),
                    }
                    for tensor in tensors
                ]
                for kind, tensors in (("input", engine.inputs), ("output", engine.outputs))
            },
        }

    def model_ready(self, name: str, version: str) -> bool:
        """Whether a model accepts requests; raises as `model` if there is none."""
        return self.model(name, version).ready and not self.stopping

    def statistics(self, name: str = "", version: str = "") -> dict[str, Any]:
        """Triton's statistics extension."""
        models = [self.model(name, version)] if name else self.models
        return {"model_stats": [_statistics(model) for model in models]}

    def restorer(self, name: str = "") -> Restorer:
        """The restorer of a model, which shares its batches; of the first if `name` is empty.

        Raises:
            ProtocolError: there is no such model (404).
        """
        return self._restorers[id(self.model(name) if name else self.models[0])]

    def restore(
        self,
        name: str,
        data: bytes,
        max_pixels: int,
        options: PhotoOptions,
        suffix: str,
        wanted: Callable[[], bool] | None = None,
    ) -> RestoredPicture:
        """Restore the faces of an encoded photograph.

        Args:
            name: of the model; the first if empty.
            data: the picture file.
            max_pixels: that it may have.
            suffix: of the format to encode the result in.
            wanted: turns False when nobody waits for the result any more.

        Raises:
            ProtocolError: there is no such model.
            ImageError: the picture cannot be decoded or encoded.
            QueueFullError: no room for its faces.
            EngineError: the engine failed.
            OverBudgetError: it needs more memory than there will ever be.
            TimeoutError: it was no longer wanted before there was memory for it.
        """
        started = time.monotonic()
        restorer, what = self.restorer(name), "the picture"
        header = read_header(what, data)
        check_size(what, header.width, header.height, max_pixels)
        search = search_bytes(restorer.detector, header.pixels)
        need = photo_need(header, len(data), suffix, options, search).within(self._memory.size)
        with self._memory.taken(need.bytes, what, "send a smaller one", wanted):
            photo = decode_picture(what, data, max_pixels)
            done = restorer.restore_photo(
                photo,
                max_face=options.max_face,
                enlarge=options.enlarge,
                background=options.background,
                max_side=MAX_SIDES.get(suffix),
                largest=need.most,
            )
            content = encode_picture(done.picture, suffix)
        height, width = photo.pixels.shape[:2]
        document = {
            "width": width,
            "height": height,
            "scale": done.scale,
            "restored": len(done.faces),
            "left": len(done.left),
            "faces": [face_entry(face) for face in done.faces],
            "ms": round((time.monotonic() - started) * 1e3, 1),
        }
        return RestoredPicture(content, document)


def _statistics(model: ServedModel) -> dict[str, Any]:
    known = model.statistics
    failed = known.requests.total() - known.requests["success"]

    def duration(count: int, nanoseconds: int) -> dict[str, int]:
        return {"count": count, "ns": nanoseconds}

    succeeded = known.requests["success"]
    return {
        "name": model.name,
        "version": model.version,
        "last_inference": known.last,
        "inference_count": known.faces,
        "execution_count": known.runs,
        "inference_stats": {
            "success": duration(succeeded, known.total),
            "fail": duration(failed, 0),
            "queue": duration(succeeded, known.queue),
            "compute_input": duration(succeeded, 0),
            "compute_infer": duration(succeeded, known.compute),
            "compute_output": duration(succeeded, 0),
        },
        "batch_stats": [
            {"batch_size": size, "compute_infer": duration(count, 0)}
            for size, count in sorted(known.batches.items())
        ],
    }
