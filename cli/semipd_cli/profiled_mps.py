"""The MPS daemon of a measurement: there is no agent to supervise one, and none is needed for five minutes.

What it cannot do is seen where it matters: a lane that is not capped reads back another grant than it asked for, and is refused.
No GPU has run this yet.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from semipd_agent.device.inventory import open_device
from semipd_agent.mps import preflight, processes
from semipd_agent.mps.environment import daemon_environment, lane_environment, outside_environment
from semipd_agent.mps.preflight import GpuSharing
from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import DeviceError
from semipd_core.partition import Isolation

QUIT_TIMEOUT_S = 20.0  # it hung once; then it is killed


@dataclass(frozen=True, slots=True, kw_only=True)
class Environments:
    """Beside the inherited one."""

    lanes: Mapping[str, str] = field(default_factory=dict)
    memory: Mapping[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def mps_daemon(
    config: AgentConfig, directory: RunDirectory, command: Sequence[str]
) -> Iterator[Environments]:
    """What lanes and memory server need; without CUDA or without MPS nothing is started and nothing needed.

    Raises: DeviceError where the binary is missing or the GPUs may not be shared, as for an agent's daemon.
    """
    if config.device != "CUDA" or config.partition.isolation is not Isolation.MPS:
        yield Environments()
        return
    _refuse_to_share(open_device(config.device).sharing(), str(directory.mps_pipes))
    for path in (directory.mps_pipes, directory.mps_logs, directory.no_mps_pipes):
        path.mkdir(mode=0o700, parents=True)
    environment = daemon_environment(os.environ, str(directory.mps_pipes), str(directory.mps_logs), ())
    log = (directory.mps_logs / "control.out").open("ab")
    try:
        daemon = subprocess.Popen(
            [*command, "-f"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    except OSError as error:
        raise DeviceError(f"{command[0]} does not start: {error.strerror}") from error
    finally:
        log.close()
    try:
        yield Environments(
            lanes=lane_environment(str(directory.mps_pipes)),
            memory=outside_environment(str(directory.no_mps_pipes)),
        )
    finally:
        _quit(daemon, command, environment)


def _refuse_to_share(gpus: Sequence[GpuSharing], pipe_directory: str) -> None:
    """Raises: DeviceError."""
    refusal = preflight.refuse(gpus, processes.find(pipe_directory).foreign_server_pids, pipe_directory)
    if refusal is not None:
        raise DeviceError(f"no MPS daemon is started: {refusal.message}")


def _quit(daemon: subprocess.Popen[bytes], command: Sequence[str], environment: Mapping[str, str]) -> None:
    """By its own command, which ends its servers too; a signal would leave them behind."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            command,
            input=b"quit -t 2\n",
            env=environment,
            timeout=QUIT_TIMEOUT_S,
            check=False,
            capture_output=True,
        )
    try:
        daemon.wait(QUIT_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()
