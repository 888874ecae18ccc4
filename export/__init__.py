"""Export: from a checkpoint to an ONNX file, a TensorRT plan or a Triton repository."""

import os


def disable_telemetry() -> None:
    """Switch off ONNX Runtime's usage reports, unless the environment already decides.

    ONNX Runtime 1.32 sends reports to its vendor and stores an identifier in the home folder. It
    reads the variable when it is imported, so a command calls this first. A program that uses
    `export` as a library keeps its environment as it is.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
