"""`python -m export.triton`: a model repository for NVIDIA's Triton Inference Server.

    models/dic/config.pbtxt     inputs, outputs, batching, warm-up
    models/dic/1/model.onnx     or model.plan; every version in a folder of its own

The configuration is built as Triton's own protobuf message (of the `tritonclient` package) and
written in its text form.
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from dic.console import Parser, UserError, run
from dic.files import write_together

if TYPE_CHECKING:
    from export.engine_file import EngineFile

ONNX_BACKEND = ("onnxruntime", "onnxruntime_onnx", "model.onnx")
PLAN_BACKEND = ("tensorrt", "tensorrt_plan", "model.plan")
CONFIG = "config.pbtxt"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
    from export.engine_file import read_engine_file

    engine = read_engine_file(options.engine)
    serving = Serving(
        folder=options.output / options.name,
        version=options.model_version,
        keep=options.keep_versions,
        device=options.device,
        instances=options.instances,
        max_batch=options.max_batch,
        queue_delay=options.queue_delay,
        cache=not options.no_cache,
    )
    write_together(repository(engine, serving))
    print(f"wrote {serving.folder}: version {serving.version}, {CONFIG}")
    newer = sum(int(v.name) > serving.version for v in _versions(serving.folder))
    if newer >= serving.keep:
        print(f"warning: {newer} newer versions are served in its place", file=sys.stderr)
    cache = " --cache-config=local,size=67108864" if serving.cache else ""
    print(f"serve it: tritonserver --model-repository={options.output.resolve()}{cache}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options and what is wrong with them: a table, and long as one."""
    parser = Parser(
        prog="python -m export.triton",
        description="Make a Triton model repository of an engine.",
    )
    parser.add_argument("engine", type=Path, metavar="ENGINE", help="dic.onnx or dic.trt")
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("models"), help="default: %(default)s"
    )
    parser.add_argument("--name", default="dic", help="of the model (default: %(default)s)")
    parser.add_argument(
        "--model-version", type=int, default=1, metavar="N", help="replaced if there (default: 1)"
    )
    parser.add_argument(
        "--keep-versions",
        type=int,
        default=1,
        metavar="N",
        help="how many of the latest versions are served (default: 1)",
    )
    parser.add_argument(
        "--device",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="where it runs (default: a GPU where the server has one)",
    )
    parser.add_argument(
        "--instances", type=int, default=1, metavar="N", help="on each GPU or CPU (default: 1)"
    )
    parser.add_argument(
        "--max-batch", type=int, metavar="N", help="default: the plan's, or 32 of an ONNX file"
    )
    parser.add_argument(
        "--queue-delay",
        type=int,
        default=500,
        metavar="US",
        help="microseconds that a request waits for others (default: 500)",
    )
    parser.add_argument(
        "--no-cache", action="store_true", help="do not answer equal requests from the cache"
    )
    options = parser.parse_args(arguments)
    for name, least in (
        ("model_version", 1),
        ("keep_versions", 1),
        ("instances", 1),
        ("queue_delay", 0),
    ):
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}")
    if options.max_batch is not None and options.max_batch < 1:
        parser.error("--max-batch must be at least 1")
    if not NAME.fullmatch(options.name):
        parser.error("--name takes letters, digits, and . _ - after the first")
    return options


@dataclass(frozen=True)
class Serving:
    """How Triton is to serve an engine; the command's options, with its defaults.

    Attributes:
        folder: of the model, in the repository; its name is the model's.
        keep: how many of the latest versions are served.
        device: "auto", "gpu" or "cpu".
        instances: on each GPU or CPU.
        max_batch: None for the plan's, or 32.
        queue_delay: microseconds that a request waits for others.
    """

    folder: Path
    version: int = 1
    keep: int = 1
    device: str = "auto"
    instances: int = 1
    max_batch: int | None = None
    queue_delay: int = 500
    cache: bool = True


def repository(engine: EngineFile, serving: Serving) -> dict[Path, bytes]:
    """The files of a repository with one version of one model.

    Raises:
        UserError: an engine that Triton cannot serve, or that does not fit what is there.
    """
    from google.protobuf import text_format

    folder = serving.folder
    backend, platform, file = _backend(engine, serving)
    config = configuration(engine, serving, backend, platform, file)
    earlier = _earlier(folder / CONFIG)
    others = [v for v in _versions(folder) if int(v.name) != serving.version]
    if earlier is not None and others:
        fields = ("platform", "input", "output")
        if any(getattr(earlier, field) != getattr(config, field) for field in fields):
            raise UserError(
                f"{folder}: has versions of another kind or with other inputs and outputs; "
                "choose another --name"
            )
    version = folder / str(serving.version)
    files = {version / file: engine.path.read_bytes()}
    files |= {version / path.name: path.read_bytes() for path in _external(engine)}
    return files | {folder / CONFIG: text_format.MessageToString(config).encode()}


def _versions(folder: Path) -> list[Path]:
    return [path for path in folder.glob("*") if path.name.isdecimal() and path.is_dir()]


def _backend(engine: EngineFile, serving: Serving) -> tuple[str, str, str]:
    """Triton's backend and platform for an engine, and what it calls the file."""
    from dic.engine_file import sidecar
    from export.engine_file import Kind

    path = engine.path
    if engine.kind is Kind.TENSORRT_RTX:
        raise UserError(f"{path}: Triton has no backend for TensorRT-RTX plans; give the ONNX file")
    if engine.kind is Kind.TENSORRT and serving.device == "cpu":
        raise UserError("--device cpu: TensorRT plans run on GPUs only; give the ONNX file")
    if serving.device == "cpu" and engine.metadata.get("precision") == "bf16":
        raise UserError("--device cpu: ONNX Runtime computes no bf16 there; give an fp32 engine")
    if engine.kind is Kind.TENSORRT and not engine.is_ours:
        raise UserError(f"{path}: {sidecar(path).name} is needed beside it, or is not ours")
    if not engine.is_ours:
        raise UserError(f"{path}: not a DIC engine; make one with python -m export.onnx")
    return PLAN_BACKEND if engine.kind is Kind.TENSORRT else ONNX_BACKEND


def configuration(
    engine: EngineFile, serving: Serving, backend: str, platform: str, file: str
) -> Any:
    """The `ModelConfig` message of an engine."""
    from tritonclient.grpc import model_config_pb2 as pb

    kinds = pb.ModelInstanceGroup.Kind
    kind = {"auto": kinds.KIND_AUTO, "gpu": kinds.KIND_GPU, "cpu": kinds.KIND_CPU}[serving.device]
    profile = engine.metadata.get("plan", {}).get("batch")
    if profile and profile[0] > 1:
        raise UserError(
            f"{engine.path}: was built for batches from {profile[0]}; Triton sends single faces "
            "too: build it with --min-batch 1"
        )
    max_batch = serving.max_batch or (profile[2] if profile else 32)
    if profile and max_batch > profile[2]:
        raise UserError(f"--max-batch {max_batch}: the plan was built for up to {profile[2]}")
    preferred = min(profile[1] if profile else 8, max_batch)
    config = pb.ModelConfig(
        name=serving.folder.name,
        backend=backend,
        platform=platform,
        default_model_filename=file,
        max_batch_size=max_batch,
        input=[
            pb.ModelInput(name=t.name, data_type=_type(t.dtype), dims=t.sizes)
            for t in engine.inputs
        ],
        output=[
            pb.ModelOutput(name=t.name, data_type=_type(t.dtype), dims=t.sizes)
            for t in engine.outputs
        ],
        instance_group=[pb.ModelInstanceGroup(count=serving.instances, kind=kind)],
        dynamic_batching=pb.ModelDynamicBatching(
            preferred_batch_size=sorted({preferred, max_batch}),
            max_queue_delay_microseconds=serving.queue_delay,
        ),
        version_policy=pb.ModelVersionPolicy(
            latest=pb.ModelVersionPolicy.Latest(num_versions=serving.keep)
        ),
        response_cache=pb.ModelResponseCache(enable=serving.cache),
    )
    for batch in sorted({1, preferred, max_batch}):  # the first request is then no slower
        warm_up = config.model_warmup.add(name=f"batch {batch}", batch_size=batch)
        for t in engine.inputs:
            given = warm_up.inputs[t.name]
            given.data_type, given.random_data = _type(t.dtype), True
            given.dims.extend(t.sizes)
    for key in ("steps", "precision", "io", "landmarks", "checkpoint_sha256"):
        config.parameters[f"dic.{key}"].string_value = str(engine.metadata.get(key, ""))
    return config


def _type(dtype: str) -> int:
    from tritonclient.grpc import model_config_pb2 as pb

    names = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
    if dtype not in names:
        raise UserError(f"a DIC engine has no {dtype} inputs or outputs")
    return int(pb.DataType.Value(names[dtype]))


def _earlier(path: Path) -> Any:
    """The configuration that is already there, or None."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    if not path.is_file():
        return None
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, ValueError) as error:
        raise UserError(f"{path}: is not a Triton configuration ({error})") from error


def _external(engine: EngineFile) -> set[Path]:
    """The files beside an ONNX file in which its weights lie."""
    return {
        engine.path.parent / entry.value
        for tensor in (engine.model.graph.initializer if engine.model else ())
        for entry in tensor.external_data
        if entry.key == "location"
    }


def cli() -> NoReturn:
    run(main, "triton")


if __name__ == "__main__":
    cli()
