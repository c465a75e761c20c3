"""Environments of the control daemon and of the processes under it: pure.

Source: MPS documentation, "Environment Variables". Shares are set per lane process; the daemon's default stays 100, since a
client can only lower it. Devices are remapped by the daemon alone, so its clients must not name any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PIPE_DIRECTORY = "CUDA_MPS_PIPE_DIRECTORY"
LOG_DIRECTORY = "CUDA_MPS_LOG_DIRECTORY"
PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
MAX_CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS"
VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"

CLIENT_CONNECTIONS = 2  # more may lower the number of clients
_NOT_FOR_THE_DAEMON = (
    PERCENTAGE,
    MAX_CONNECTIONS,
    VISIBLE_DEVICES,
    "CUDA_MPS_ENABLE_PER_CTX_DEVICE_MULTIPROCESSOR_PARTITIONING",
    "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
    "CUDA_MPS_CLIENT_PRIORITY",
    "CUDA_MPS_PROTOCOL_VERSION",  # v3 would be answered in v3
)


def daemon_environment(
    inherited: Mapping[str, str], pipe_directory: str, log_directory: str, gpu_uuids: Sequence[str]
) -> dict[str, str]:
    """`gpu_uuids` become the clients' devices 0, 1, …"""
    kept = {name: value for name, value in inherited.items() if name not in _NOT_FOR_THE_DAEMON}
    devices = {VISIBLE_DEVICES: ",".join(gpu_uuids)} if gpu_uuids else {}
    return {**kept, PIPE_DIRECTORY: pipe_directory, LOG_DIRECTORY: log_directory, **devices}


def lane_environment(pipe_directory: str) -> dict[str, str]:
    """What a lane needs beside its share to be a client of the daemon in `pipe_directory`."""
    return {PIPE_DIRECTORY: pipe_directory, MAX_CONNECTIONS: str(CLIENT_CONNECTIONS)}


def outside_environment(empty_directory: str) -> dict[str, str]:
    """Of a process that must not be a client (the memory server): nobody listens in `empty_directory`."""
    return {PIPE_DIRECTORY: empty_directory}
