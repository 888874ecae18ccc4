"""`python -m benchmarks.demo`: restore a small photograph and write a picture for comparison.

The photograph is scikit-image's `astronaut` (NASA, public domain), shrunk until the square around
the face, from hair to chin, is 16 pixels wide, the network's input size. It is restored with the
`runtime.infer` command.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from benchmarks.portraits import astronaut, compare, sheet, shrunk
from dic.console import Parser, UserError, run
from dic.engine_file import engine_files
from dic.files import write_whole
from dic.outputs import check_outputs
from dic.sizes import LQ_SIZE
from runtime.faces.detect import YuNetDetector
from runtime.pictures.encode import encode_picture
from runtime.pictures.files import read_picture
from runtime.pictures.picture import Picture

TILE = 384  # pixels


def main(arguments: list[str]) -> int:
    parser = Parser(
        prog="python -m benchmarks.demo", description="Restore a small photograph and compare."
    )
    parser.add_argument("--engine", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)

    source, target, picture = (
        options.out / name for name in ("small.png", "restored.png", "comparison.png")
    )
    check_outputs((source, target, picture), engine_files(options.engine))
    original = astronaut()
    face = YuNetDetector().find(original)[0]
    small = shrunk(original, face, LQ_SIZE)
    write_whole(source, encode_picture(Picture(small), ".png"))
    command = [sys.executable, "-m", "runtime.infer", str(source), "-o", str(target)]
    command += ["--engine", str(options.engine), "--faces"]
    print("$", " ".join(["python", *command[1:]]), flush=True)
    status = subprocess.run(command, check=False).returncode
    if status:
        raise UserError(f"{source}: python -m runtime.infer failed with status {status}; see above")
    compared = compare("astronaut", original, small, read_picture(target).rgb(), face)
    write_whole(picture, encode_picture(Picture(sheet([compared], TILE)), ".png"))
    print(
        f"\nPSNR of the face against the original: bicubic {compared.bicubic:.2f} dB, restored "
        f"{compared.restored:.2f} dB\nLook at {picture}"
    )
    return 0


def cli() -> NoReturn:
    run(main, "benchmarks")


if __name__ == "__main__":
    cli()
