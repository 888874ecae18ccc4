"""What `export` changes in the process that uses it: nothing beyond its calls."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from export.graph.quantise import ADVICE, _hidden_advice


def test_importing_the_library_keeps_the_environment() -> None:
    code = (
        "import os\nbefore = dict(os.environ)\n"
        "import export, export.inspect, export.choices\n"
        "assert dict(os.environ) == before\n"
        "export.disable_telemetry()\n"
        "assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ORT_DISABLE_TELEMETRY"}
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


def test_only_the_quantisers_advice_is_hidden(caplog: pytest.LogCaptureFixture) -> None:
    root = logging.getLogger()
    before = root.level, list(root.handlers), list(root.filters)
    with _hidden_advice():
        logging.warning("Please %s before quantization", ADVICE)
        logging.warning("the host's own message")
    assert caplog.messages == ["the host's own message"]
    assert (root.level, root.handlers, root.filters) == before
