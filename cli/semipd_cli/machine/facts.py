"""Asks the machine: NVML, PATH, the process list, agents. Nothing here judges, nothing fails for what is not there."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import msgspec

from semipd_agent.device.facts import DeviceUnit
from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.device.reading import DriverVersions, GpuReading, Look
from semipd_agent.mps import processes
from semipd_cli.machine import services
from semipd_cli.machine.service_facts import ServiceFacts
from semipd_core.errors import DeviceError

GPM_PAUSE_S = 0.5  # between two looks: activities are means of the time between


class MpsServer(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`pipe_directory` is None where it cannot be read: another user's. `is_own`: it belongs to a semipd service."""

    pid: int
    pipe_directory: str | None
    is_own: bool


class MachineFacts(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """`problem`: why NVML tells nothing. `units` and `gpus` are in the same order. Programs: their paths."""

    problem: str | None = None
    is_lost: bool = False
    versions: DriverVersions | None = None
    units: list[DeviceUnit] = msgspec.field(default_factory=list)
    gpus: list[GpuReading] = msgspec.field(default_factory=list)
    mps_control: str | None = None
    mps_server: str | None = None
    mps_servers: list[MpsServer] = msgspec.field(default_factory=list)
    c_compiler: str | None = None
    services: list[ServiceFacts] = msgspec.field(default_factory=list)  # of this user, where there are GPUs


def observe() -> MachineFacts:
    look = _look()
    return MachineFacts(
        problem=look.error,
        is_lost=look.is_lost,
        versions=look.versions,
        units=list(look.units),
        gpus=list(look.readings),
        mps_control=shutil.which(processes.CONTROL),
        mps_server=shutil.which(processes.SERVER),
        mps_servers=[
            MpsServer(pid=pid, pipe_directory=pipes, is_own=_is_own(pipes))
            for pid, pipes in processes.servers()
        ],
        c_compiler=_c_compiler(),
        services=services.observe() if look.readings or look.is_lost else [],
    )


def _c_compiler() -> str | None:
    """As Triton looks for it."""
    return os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")


def _look() -> Look:
    """Two looks where a GPU counts its activity."""
    try:
        device = NvmlDevice()
    except DeviceError as error:  # no pynvml
        return Look(error=str(error))
    try:
        look = device.look()
        if not any(reading.has_gpm for reading in look.readings):
            return look
        time.sleep(GPM_PAUSE_S)
        return device.look()
    finally:
        device.close()


def _is_own(pipe_directory: str | None) -> bool:
    """The agent keeps its pipes in `mps/pipe` of a run directory, beside its lock."""
    return pipe_directory is not None and (Path(pipe_directory).parent.parent / "agent.lock").exists()
