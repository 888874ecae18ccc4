"""Clusters of Ray on this machine, for tests."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def nodes(dashboard: bool = False) -> Iterator[tuple[str, str]]:
    """Two nodes with two CPUs each; yields the address, and the dashboard's if there is one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    head = {"num_cpus": 2, "include_dashboard": dashboard, "dashboard_port": port}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=2)
    try:
        yield cluster.address, f"http://127.0.0.1:{port}"
    finally:
        cluster.shutdown()


def processes(title: str) -> list[int]:
    """Descendants of this process whose command line begins with `title`."""
    parents, titles = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int(
                (folder / "stat").read_text().rpartition(")")[2].split()[1]
            )
            titles[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue

    def ours(process: int) -> bool:
        while process in parents:
            if process == os.getpid():
                return True
            process = parents[process]
        return False

    return [process for process, line in titles.items() if line.startswith(title) and ours(process)]
