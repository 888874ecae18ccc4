"""`python -m benchmarks.crashes`: kill commands at random moments, and compare what a rerun gives.

Each command runs once undisturbed. Then it is killed (SIGKILL) at a random moment of its work,
again and again, each time continued by `--resume` or run once more, until it ends by itself. The
files must have the content of those of the undisturbed run, and no temporary file may be left.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from PIL import Image

from benchmarks.report.markdown import table
from benchmarks.report.rows import check_parts, write_rows
from dic.console import Parser, UserError, run
from dic.engine_file import read_sidecar
from dic.outputs import check_outputs
from dic.progress import Progress

PARTS = ("photos", "video", "export", "plan", "prepare", "shards", "training")
PICTURES = 12
FACES = 24  # enough for train.prepare to start processes
TINY = (
    *("network.channels=4", "network.groups=2", "network.hourglass_channels=8"),
    *("network.hourglass_depth=2", "network.steps=2", "data.count=8", "data.validation=4"),
    *("batch_size=2", "iterations=60", "validate_every=20", "save_every=2"),
)
# Keys of JSON files that differ from run to run; a plan's hash is compared with the plan.
VOLATILE = ("seconds", "already there", "sha256")


@dataclass(frozen=True)
class Crash:
    """The result of one command.

    Attributes:
        command: that was killed.
        kills: processes that were killed, at least half of them after their first output.
        seconds: the command takes undisturbed.
        differing: files that differ from those of the undisturbed run, whenever a run that goes on
            where others were killed comes to its end.
        left: temporary files that were left then.
        partial: files under their final names that were incomplete after a kill.
    """

    command: str
    kills: int
    seconds: float
    differing: list[str]
    left: list[str]
    partial: list[str]

    @property
    def right(self) -> bool:
        return not (self.differing or self.left or self.partial)


Line = Callable[[Path], list[str]]


def crashed(
    name: str, line: Line, folder: Path, kills: int, seed: int, limit: float = math.inf
) -> Crash:
    """Kill a command `kills` times.

    Args:
        line: the command's arguments, by the folder to write to; they continue earlier work.
        seed: of the moments.
        limit: in seconds; there are fewer kills if they take longer.
    """
    whole, killed = folder / f"{name}-whole", folder / f"{name}-killed"
    started = time.monotonic()
    _finished(line(whole))
    seconds = time.monotonic() - started
    wanted, moments = contents(whole), random.Random(seed)
    partial, differing, left = set[str](), set[str](), set[str]()

    def compare() -> None:
        given = contents(killed)
        differing.update(f for f in wanted if given.get(f) != wanted[f])
        left.update(f for f in given if f not in wanted)

    done = 0
    with Progress(total=kills, desc=name, unit="kill") as bar:
        while done < kills and time.monotonic() - started < limit:
            with subprocess.Popen(
                [sys.executable, "-m", *line(killed)], stderr=subprocess.PIPE, text=True
            ) as process:
                longest = seconds
                if done % 2:  # while outputs are written, which may be the last moments
                    _wait_for_output(process, killed)
                    longest = seconds / 10
                try:
                    _, said = process.communicate(timeout=moments.uniform(0, longest))
                except subprocess.TimeoutExpired:
                    process.kill()
                else:  # it ended by itself: once more from the start
                    _check(process, said)
                    compare()
                    shutil.rmtree(killed)
                    continue
            done += 1
            bar.update()
            if name != "training":  # whose files change from iteration to iteration
                now = contents(killed) if killed.exists() else {}
                partial.update(f for f, digest in now.items() if wanted.get(f, digest) != digest)
    _finished(line(killed))
    compare()
    return Crash(name, done, round(seconds, 1), sorted(differing), sorted(left), sorted(partial))


def _wait_for_output(process: subprocess.Popen[str], folder: Path) -> None:
    """Wait until the process has made a file, or ended."""
    before = set(folder.rglob("*"))
    while process.poll() is None and not set(folder.rglob("*")) - before:
        time.sleep(0.002)


def _finished(line: list[str]) -> None:
    command = [sys.executable, "-m", *line]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        _check(process, process.communicate()[1])


def _check(process: subprocess.Popen[str], said: str) -> None:
    """Raise UserError if a process has failed."""
    if process.returncode:
        raise UserError(f"{process.args!r}: status {process.returncode}: {said.strip()[-500:]}")


def contents(folder: Path) -> dict[str, str]:
    """A digest of each file by its path; hidden ones are those that a killed command has begun."""
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "tensorboard" not in path.parts
    }


def _digest(path: Path) -> str:
    try:
        content = _content(path)
    except Exception:  # incomplete: each library raises its own
        content = path.read_bytes()
    return hashlib.sha256(content).hexdigest()


def _content(path: Path) -> bytes:
    """A file's content: of checkpoints their tensors, of videos their packets, of plans, which
    TensorRT never builds twice the same, whether the file beside them is theirs.
    """
    if path.suffix == ".pth":
        import torch

        return repr(_plain(torch.load(path, weights_only=True))).encode()
    if path.suffix == ".mkv":
        return repr(_packets(path)).encode()  # Matroska's identifiers differ from file to file
    if path.suffix == ".trt":
        return repr(bool(read_sidecar(path, path.read_bytes()))).encode()
    if path.suffix == ".json":
        return json.dumps(_plain(json.loads(path.read_text())), sort_keys=True).encode()
    return path.read_bytes()


def _packets(path: Path) -> list[Any]:
    import av

    with av.open(str(path)) as container:
        return [(p.stream.index, p.pts, p.dts, bytes(p)) for p in container.demux()]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in VOLATILE}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "numpy"):
        return hashlib.sha256(np.ascontiguousarray(value.numpy()).tobytes()).hexdigest()
    return value


def commands(folder: Path, engine: Path, checkpoint: Path) -> dict[str, Line]:
    """The commands that are killed, with their inputs made in `folder`."""
    album, clip = folder / "album", folder / "clip.mkv"
    album.mkdir()
    rng = np.random.default_rng(0)
    for n in range(PICTURES):
        pixels = rng.integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(album / f"{n:02}.png")
    _write_clip(clip)
    faces = _write_faces(folder / "faces")
    prepare = ["train.prepare", str(faces), "--crop", "none", "--validation", "4"]
    infer = ["runtime.infer", "--engine", str(engine), "--device", "cpu"]
    return {
        "photos": lambda out: [*infer, str(album), "-o", f"{out}/", "--resume", "--landmarks"],
        "video": lambda out: [
            *infer, "--faces", str(clip), "-o", str(out / "clip.mkv"), "--resume", "--enlarge", "1"
        ],
        "export": lambda out: ["export.onnx", str(checkpoint), "-o", str(out / "dic.onnx")],
        "plan": lambda out: ["export.tensorrt", str(engine), "-o", str(out / "dic.trt")],
        "prepare": lambda out: [*prepare, "--out", str(out)],
        "shards": lambda out: [*prepare, "--shards", "8", "--out", str(out)],
        "training": lambda out: [
            *("train", "--recipe", "synthetic-demo", "--out", str(out), "--resume", *TINY)
        ],
    }  # fmt: skip


def _write_faces(folder: Path) -> Path:
    """Drawn faces with their landmarks."""
    from train.data.annotations import encode_pts
    from train.data.synthetic import draw_faces

    folder.mkdir()
    for n, (face, points) in enumerate(zip(*draw_faces(0, FACES), strict=True)):
        Image.fromarray(face).save(folder / f"{n:02}.png")
        (folder / f"{n:02}.pts").write_bytes(encode_pts(points))
    return folder


def _write_clip(path: Path) -> None:
    """Twelve frames of a portrait that moves."""
    import av
    import skimage.data

    face = np.asarray(Image.fromarray(skimage.data.astronaut()).resize((170, 170)))
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=12, options={"crf": "12"})
        stream.height, stream.width, stream.pix_fmt = 120, 160, "yuv420p"
        for n in range(12):
            pixels = np.ascontiguousarray(face[5:125, n : n + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def summary(rows: list[dict[str, Any]]) -> str:
    """The results as a table."""
    head = ["command", "kills", "undisturbed, s", "differing files", "files left", "incomplete"]
    counted = ("differing", "left", "partial")
    cells = [
        [r["command"], str(r["kills"]), f"{r['seconds']:.1f}", *(str(len(r[c])) for c in counted)]
        for r in rows
    ]
    return table(head, cells)


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.crashes",
        description="Kill commands at random moments, continue them, and compare their results "
        "with those of undisturbed runs.",
    )
    add = parser.add_argument
    add("what", nargs="*", metavar="WHAT", help=f"{', '.join(PARTS)} (default: all)")
    add("--engine", type=Path, required=True, metavar="FILE", help="a small one")
    add("--checkpoint", type=Path, required=True, metavar="CKPT", help="a small one, for export")
    add("--kills", type=int, default=50, metavar="N", help="of each (default: %(default)s)")
    add(
        "--minutes",
        type=float,
        default=math.inf,
        metavar="N",
        help="for each; there are fewer kills if they take longer (default: no limit)",
    )
    add("--seed", type=int, default=0, help="default: %(default)s")
    add("--json", type=Path, metavar="FILE",
        help="write the results as JSON; those of other commands in FILE are kept")  # fmt: skip
    options = parser.parse_args(arguments)
    check_parts(parser, options.what, PARTS)
    if options.kills < 1:
        parser.error("--kills must be at least 1")
    check_outputs(filter(None, [options.json]), [options.engine, options.checkpoint])
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = commands(folder, options.engine.resolve(), options.checkpoint.resolve())
        for part in options.what or PARTS:
            limit = options.minutes * 60
            one = crashed(part, lines[part], folder, options.kills, options.seed, limit)
            results.append(one)
    rows = [asdict(result) for result in results]
    print(summary(rows))
    if options.json:
        write_rows(options.json, options.seed, "commands", "command", rows, PARTS)
    return 0 if all(result.right for result in results) else 1


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
