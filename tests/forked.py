"""Processes that train, forked from one that has imported PyTorch: they start in milliseconds."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Mapping
from multiprocessing import get_context
from pathlib import Path

FORKED = get_context("forkserver")
FORKED.set_forkserver_preload(["train.__main__", "train.loop.training", "torch.utils.tensorboard"])


def train_command(
    arguments: list[str],
    errors: Path,
    environment: Mapping[str, str] | None = None,
    largest_file: int = resource.RLIM_INFINITY,
) -> None:
    """`python -m train`; exits with its status.

    Args:
        errors: a file for standard error.
        environment: variables to set.
        largest_file: bytes; larger ones cannot be written, as on a full disk.
    """
    from train.__main__ import cli

    resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os.environ.update(environment or {})
    sys.argv = ["train", *arguments]
    os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    cli()
