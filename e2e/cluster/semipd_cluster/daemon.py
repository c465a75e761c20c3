"""A cluster in the background: `up` starts it and waits, `down` ends it and removes what a killed one left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from semipd_cluster import build, machine_lock, machine_state
from semipd_cluster.cluster import Cluster, default_directory, nodes_file
from semipd_cluster.errors import ClusterError
from semipd_cluster.processes import POLL_S, python_module

DOWN_TIMEOUT_S = 60.0
OUTAGE_S = 30.0


def up(nodes: int, gpus: int) -> Path:
    """The directory of the cluster that runs then; one that runs already stays as it is. Raises: ClusterError."""
    holder = machine_lock.find_holder()
    if holder is not None:
        _wait_for(holder.directory, lambda: machine_lock.find_holder() is not None)
        return holder.directory
    machine_state.check()
    build.ensure_programs()
    directory = default_directory()
    nodes_file(directory).unlink(missing_ok=True)
    _start(directory, nodes, gpus)
    return directory


def _wait_for(directory: Path, is_running: Callable[[], bool]) -> None:
    while not nodes_file(directory).exists():
        if not is_running():
            raise ClusterError(f"the cluster did not start:\n{log_file().read_text()}")
        time.sleep(POLL_S)


def log_file() -> Path:
    return build.cache_directory() / "cluster.log"


def _start(directory: Path, nodes: int, gpus: int) -> None:
    """On Ctrl-C the half-started cluster ends too."""
    command = python_module("semipd_cluster", "serve", f"--nodes={nodes}", f"--gpus={gpus}")
    with log_file().open("wb") as output:
        server = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for(directory, lambda: server.poll() is None)
    except KeyboardInterrupt:
        server.terminate()
        server.wait()
        raise


def serve(nodes: int, gpus: int) -> None:
    """Runs a cluster until it is told to end; SIGUSR1 breaks its API server for OUTAGE_S."""
    signal.signal(signal.SIGTERM, _end)
    with Cluster(nodes=nodes, gpus=gpus) as cluster:
        signal.signal(signal.SIGUSR1, lambda *_: cluster.control_plane.break_api_server(OUTAGE_S))
        while True:
            signal.pause()


def break_api_server() -> None:
    """Of the cluster that runs; returns at once. Raises: ClusterError."""
    holder = machine_lock.find_holder()
    if holder is None:
        raise ClusterError("no cluster runs: `make cluster-up` starts one")
    _signal(holder, signal.SIGUSR1)


def _end(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not interrupt the end
    raise SystemExit(0)


def down() -> None:
    """Also removes what a killed cluster left. Raises: ClusterError."""
    holder = machine_lock.find_holder()
    if holder is not None:
        _terminate(holder)
    killed = machine_lock.find_killed()
    if killed is not None:
        with machine_lock.held(killed.directory):
            machine_state.remove_traces(killed.directory)


def _terminate(holder: machine_lock.Holder) -> None:
    _signal(holder, signal.SIGTERM)
    deadline_s = time.monotonic() + DOWN_TIMEOUT_S
    while machine_lock.find_holder() is not None:
        if time.monotonic() > deadline_s:
            _signal(holder, signal.SIGKILL)
        time.sleep(POLL_S)


def _signal(holder: machine_lock.Holder, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(holder.pid, number)
