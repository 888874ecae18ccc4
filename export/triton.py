"""`python -m export.triton`: write a model repository for NVIDIA's Triton Inference Server.

    models/dic/config.pbtxt     inputs, outputs, batching, warm-up
    models/dic/1/model.onnx     or model.plan; one folder per version
    models/dic/1/model.py       with Triton's Python backend, which runs any engine by our runtime

The configuration is a Triton `ModelConfig` protobuf message (from the `tritonclient` package) in
text format.
https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dic.console import Parser, UserError, run
from dic.engine_file import engine_files, sidecar
from dic.files import write_together
from dic.outputs import refuse_inputs
from export.engine_file import EngineFile, Kind, read_engine_file

CONFIG = "config.pbtxt"
ONNX_FILE, PLAN_FILE = "model.onnx", "model.plan"
# What `--backend python` serves: a file of its own, because `export` does not import `runtime`.
MODEL_PY = Path(__file__).parent / "templates" / "model.py"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
# Options' smallest and largest values: those of their types in Triton (model_config.proto).
RANGES = {
    "model_version": (1, 2**63 - 1),
    "keep_versions": (1, 2**32 - 1),
    "instances": (1, 2**31 - 1),
    "max_batch": (1, 2**31 - 1),
    "queue_delay": (0, 2**64 - 1),
}


def main(arguments: list[str]) -> int:
    options = _parse(arguments)
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
        environment=options.environment,
    )
    backend = choose_backend(engine, serving, options.backend)
    files = repository(engine, serving, backend)
    version = serving.folder / str(serving.version)
    stale = [path for path in _of_all_backends(version) if path not in files]
    refuse_inputs((*files, *stale), (*engine_files(engine.path), *_external(engine), MODEL_PY))
    write_together(files)
    for path in stale:
        path.unlink(missing_ok=True)
    print(f"wrote {serving.folder}: version {serving.version}, {CONFIG} ({backend.name} backend)")
    newer = sum(int(v.name) > serving.version for v in _versions(serving.folder))
    if newer >= serving.keep:
        print(
            f"warning: version {serving.version} will not be served: {newer} newer versions are "
            f"there; raise --model-version or --keep-versions",
            file=sys.stderr,
        )
    cache = " --cache-config=local,size=67108864" if serving.cache else ""
    if backend is PYTHON and not serving.environment:
        print(
            "Triton's Python needs dic-toolkit[cpu] or dic-toolkit[gpu]: install it there, or name "
            "an environment that has it with --environment"
        )
    print(f"to serve it: tritonserver --model-repository={options.output.resolve()}{cache}")
    return 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="python -m export.triton",
        description="Write a Triton model repository for an engine.",
    )
    add = parser.add_argument
    add("engine", type=Path, metavar="ENGINE", help="dic.onnx or dic.trt")
    add("-o", "--output", type=Path, default=Path("models"), help="default: %(default)s")
    add("--name", default="dic", help="the model's name (default: %(default)s)")
    add(
        "--backend",
        choices=("auto", *BACKENDS),
        default="auto",
        help="Triton's backend that runs the engine; python runs any engine, by this toolkit's "
        "runtime (default: onnxruntime for an ONNX file, tensorrt for a TensorRT plan, python for "
        "a TensorRT-RTX plan)",
    )
    add(
        "--environment",
        metavar="PATH",
        help="for the python backend: the Python environment with dic-toolkit on Triton's machine, "
        "a folder with bin/activate or a packed .tar.gz (default: Triton's own Python)",
    )
    _add_serving_options(parser)
    options = parser.parse_args(arguments)
    _validate(parser, options)
    return options


def _add_serving_options(parser: Parser) -> None:
    add = parser.add_argument
    add(
        "--model-version",
        type=int,
        default=1,
        metavar="N",
        help="overwritten if it exists (default: 1)",
    )
    add(
        "--keep-versions",
        type=int,
        default=1,
        metavar="N",
        help="how many of the latest versions are served (default: 1)",
    )
    add(
        "--device",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="where the model runs (default: on the GPU if the server has one)",
    )
    add(
        "--instances",
        type=int,
        default=1,
        metavar="N",
        help="instances per GPU or CPU (default: 1)",
    )
    add("--max-batch", type=int, metavar="N", help="default: the plan's, or 32 for an ONNX file")
    add(
        "--queue-delay",
        type=int,
        default=500,
        metavar="US",
        help="longest time in microseconds that a request waits for a batch (default: 500)",
    )
    add("--no-cache", action="store_true", help="do not answer repeated requests from the cache")


def _validate(parser: Parser, options: argparse.Namespace) -> None:
    for name, (least, most) in RANGES.items():
        value = getattr(options, name)
        if value is not None and not least <= value <= most:
            parser.error(f"--{name.replace('_', '-')} must be {least} to {most}, not {value}")
    if not NAME.fullmatch(options.name):
        parser.error("--name must start with a letter or digit; letters, digits, . _ - may follow")


@dataclass(frozen=True)
class Backend:
    """One of Triton's backends.

    Attributes:
        name: Triton's name of it.
        platform: Triton's older name of what it loads; empty if it has none.
        kinds: of the engine files that it runs.
    """

    name: str
    platform: str
    kinds: tuple[Kind, ...]


ONNXRUNTIME = Backend("onnxruntime", "onnxruntime_onnx", (Kind.ONNX,))
TENSORRT = Backend("tensorrt", "tensorrt_plan", (Kind.TENSORRT,))
PYTHON = Backend("python", "", tuple(Kind))
# A kind's own backend comes before Python, which runs all.
BACKENDS = {backend.name: backend for backend in (ONNXRUNTIME, TENSORRT, PYTHON)}


@dataclass(frozen=True)
class Serving:
    """How Triton serves an engine: the command's options, with the same defaults.

    Attributes:
        folder: the model's folder in the repository; its name is the model's name.
        version: the version to write, 1 or higher; it replaces an existing one.
        keep: how many of the latest versions are served.
        device: "auto", "gpu" or "cpu".
        instances: model instances per GPU or CPU.
        max_batch: largest batch; None for the plan's, or 32 for an ONNX file.
        queue_delay: longest time in microseconds that a request waits to be batched with others.
        cache: answer repeated requests from Triton's response cache.
        environment: of the Python backend, a path on Triton's machine; None for its own Python.
    """

    folder: Path
    version: int = 1
    keep: int = 1
    device: str = "auto"
    instances: int = 1
    max_batch: int | None = None
    queue_delay: int = 500
    cache: bool = True
    environment: str | None = None


def repository(engine: EngineFile, serving: Serving, backend: Backend) -> dict[Path, bytes]:
    """The configuration and model files of one version, by path.

    Raises:
        UserError: Triton cannot serve the engine, or versions that are already in the folder have
            another backend, another kind of engine file, or other inputs and outputs.
    """
    from google.protobuf import text_format

    folder = serving.folder
    config = configuration(engine, serving, backend)
    earlier = _earlier(folder / CONFIG)
    others = [v for v in _versions(folder) if int(v.name) != serving.version]
    if earlier is not None and others and _shared(earlier) != _shared(config):
        raise UserError(
            f"{folder}: holds versions with another backend, another kind of engine file, or other "
            "inputs and outputs; choose another --name"
        )
    version = folder / str(serving.version)
    files = {version / _engine_file(engine): engine.path.read_bytes()}
    files |= {version / path.name: path.read_bytes() for path in _external(engine)}
    if backend is PYTHON:
        files[version / MODEL_PY.name] = MODEL_PY.read_bytes()
        if engine.model is None:
            copied = sidecar(version / _engine_file(engine))
            files[copied] = sidecar(engine.path).read_bytes()
    return files | {folder / CONFIG: text_format.MessageToString(config).encode()}


def _engine_file(engine: EngineFile) -> str:
    """The name of the engine in a version's folder: the same in all, as they share a config."""
    return ONNX_FILE if engine.model else PLAN_FILE


def _shared(config: Any) -> tuple[Any, ...]:
    """What all versions of a model must have in common."""
    engine = config.parameters["engine"].string_value if "engine" in config.parameters else ""
    return config.backend, config.platform, engine, list(config.input), list(config.output)


def _of_all_backends(version: Path) -> list[Path]:
    """The files that any backend has in a version."""
    plan = version / PLAN_FILE
    return [version / ONNX_FILE, plan, sidecar(plan), version / MODEL_PY.name]


def _versions(folder: Path) -> list[Path]:
    """The folders of the model's existing versions."""
    return [path for path in folder.glob("*") if path.name.isdecimal() and path.is_dir()]


def choose_backend(engine: EngineFile, serving: Serving, name: str) -> Backend:
    """The backend of a name, or with "auto" the one that is made for the engine.

    Raises:
        UserError: the backend cannot run the engine on the device.
    """
    path, kind = engine.path, engine.kind
    able = [backend for backend in BACKENDS.values() if kind in backend.kinds]
    backend = able[0] if name == "auto" else BACKENDS[name]
    what = "an ONNX file" if kind is Kind.ONNX else f"a {kind.value}"
    if backend not in able:
        others = " or ".join(other.name for other in able)
        raise UserError(f"{path}: --backend {name} does not run {what}; use {others}")
    if kind is not Kind.ONNX and serving.device == "cpu":
        raise UserError(f"--device cpu: {kind.value}s run on GPUs only; give the ONNX file")
    if serving.device == "cpu" and engine.metadata.get("precision") == "bf16":
        raise UserError("--device cpu: ONNX Runtime has no bf16 on CPUs; give an fp32 engine")
    if kind is not Kind.ONNX and not engine.is_ours:
        raise UserError(
            f"{path}: {sidecar(path).name} is needed in the same folder; build the plan with "
            "python -m export.tensorrt"
        )
    if not engine.is_ours:
        raise UserError(f"{path}: not a DIC engine; make one with python -m export.onnx")
    if serving.environment is not None and backend is not PYTHON:
        raise UserError(f"--environment: the {backend.name} backend runs no Python; leave it out")
    return backend


def configuration(engine: EngineFile, serving: Serving, backend: Backend) -> Any:
    """The `ModelConfig` message of an engine.

    Raises:
        UserError: the batch sizes do not fit the plan's optimisation profile.
    """
    from tritonclient.grpc import model_config_pb2 as pb

    kinds = pb.ModelInstanceGroup.Kind
    kind = {"auto": kinds.KIND_AUTO, "gpu": kinds.KIND_GPU, "cpu": kinds.KIND_CPU}[serving.device]
    profile = engine.metadata.get("plan", {}).get("batch")
    if profile and profile[0] > 1:
        raise UserError(
            f"{engine.path}: its smallest batch is {profile[0]}, but Triton also sends single "
            "faces; build it with --min-batch 1"
        )
    max_batch = serving.max_batch or (profile[2] if profile else 32)
    if profile and max_batch > profile[2]:
        raise UserError(f"--max-batch {max_batch}: the plan takes up to {profile[2]}; lower it")
    preferred = min(profile[1] if profile else 8, max_batch)
    config = pb.ModelConfig(
        name=serving.folder.name,
        backend=backend.name,
        platform=backend.platform,
        default_model_filename=MODEL_PY.name if backend is PYTHON else _engine_file(engine),
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
    for batch in sorted({1, preferred, max_batch}):  # so that first requests are not slower
        warm_up = config.model_warmup.add(name=f"batch {batch}", batch_size=batch)
        for t in engine.inputs:
            given = warm_up.inputs[t.name]
            given.data_type, given.random_data = _type(t.dtype), True
            given.dims.extend(t.sizes)
    for key in ("steps", "precision", "io", "landmarks", "checkpoint_sha256"):
        config.parameters[f"dic.{key}"].string_value = str(engine.metadata.get(key, ""))
    if backend is PYTHON:
        config.parameters["engine"].string_value = _engine_file(engine)
        # On a GPU the instance's kind decides which.
        config.parameters["device"].string_value = "cpu" if serving.device == "cpu" else "auto"
        if serving.environment:
            config.parameters["EXECUTION_ENV_PATH"].string_value = serving.environment
    return config


def _type(dtype: str) -> int:
    from tritonclient.grpc import model_config_pb2 as pb

    names = {"float32": "TYPE_FP32", "uint8": "TYPE_UINT8"}
    if dtype not in names:
        raise UserError(f"{dtype} inputs or outputs: a DIC engine has none; export it again")
    return int(pb.DataType.Value(names[dtype]))


def _earlier(path: Path) -> Any:
    """The existing configuration, or None.

    Raises:
        UserError: the file cannot be parsed.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2 as pb

    if not path.is_file():
        return None
    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
    except (text_format.ParseError, ValueError) as error:
        raise UserError(
            f"{path}: is not a Triton configuration ({error}); remove it or choose another --name"
        ) from error


def _external(engine: EngineFile) -> set[Path]:
    """The files that hold an ONNX file's external weights."""
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
