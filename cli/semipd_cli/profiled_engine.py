"""One engine without agent, coordinator and front end, for `semipd profile`: a memory server, a zygote, lanes on demand."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from semipd_agent import configure
from semipd_agent.commands import Commands
from semipd_agent.device.inventory import open_device
from semipd_agent.run_directory import RunDirectory
from semipd_cli import run_directory
from semipd_cli.profiled_lanes import ENGINE_ID, Forks, last_words
from semipd_cli.profiled_mps import mps_daemon
from semipd_core.agent_config import AgentConfig
from semipd_core.engine_config import EngineConfig
from semipd_core.errors import InvalidSpec, SemipdError
from semipd_engine.lane.arbiter import ControlPage
from semipd_engine.memory.client import attach
from semipd_engine.profiling.lane_bench import LaneBench
from semipd_engine.profiling.timing import Sampling
from semipd_shell import channel
from semipd_shell.agent_watch import AgentLock
from semipd_shell.files import write_atomically

STOP_S = 15.0
POLL_S = 0.05


class EngineEnded(SemipdError):
    """A process that the measurement needs has ended; the message has the end of its log."""


@contextlib.contextmanager
def open_bench(config: AgentConfig, sampling: Sampling, commands: Commands) -> Iterator[LaneBench]:
    """The first engine of `config`, loaded and ready for lanes; everything has ended when the context has.

    Raises: InvalidSpec for what the memory server refuses, EngineEnded, DeviceError.
    """
    with tempfile.TemporaryDirectory(prefix="semipd-profile-") as path, contextlib.ExitStack() as stack:
        directory = RunDirectory(Path(path))
        engine = write_engine(config, directory)
        lock = AgentLock(str(directory.agent_lock))  # without it they would take themselves for orphans
        assert lock.acquire()
        stack.callback(lock.release)
        around = stack.enter_context(mps_daemon(config, directory, commands.mps_control))
        processes = _Processes(directory)
        stack.callback(processes.end)
        memory = processes.start(
            "memory", commands.of_engine("memory", directory.engine_config(ENGINE_ID)), around.memory
        )
        zygote = processes.start("zygote", commands.of_zygote(directory))
        processes.await_socket(memory, engine.memory_socket)
        processes.await_socket(zygote, engine.zygote_socket)
        attachment = attach(engine.memory_socket)
        stack.callback(attachment.close)
        page = ControlPage(attachment.control)
        stack.callback(page.close)
        bench = LaneBench(
            config=engine,
            manifest=attachment.manifest,
            page=page,
            listener=channel.listen(engine.coordinator_socket),
            fork=Forks(directory, engine, around.lanes).fork,
            sampling=sampling,
        )
        stack.callback(bench.close)
        yield bench


def write_engine(config: AgentConfig, directory: RunDirectory) -> EngineConfig:
    """What its processes are told, on disk; one engine, however many the service has. Raises: InvalidSpec, DeviceError."""
    uuids = [unit.uuid for unit in open_device(config.device).inventory().units]
    gpus = configure.assign_gpus(config.device, uuids, 1, config.num_ranks)[0]
    cpus = configure.split_cpus(sorted(os.sched_getaffinity(0)), config.engines)[0]
    engine = configure.build_engine_config(config, ENGINE_ID, cpus, directory, gpus)
    directory.engine(ENGINE_ID).mkdir(mode=0o700)
    directory.logs.mkdir(mode=0o700)
    write_atomically(directory.engine_config(ENGINE_ID), msgspec.json.encode(engine))
    return engine


@dataclass(frozen=True, slots=True, kw_only=True)
class _Process:
    child: subprocess.Popen[bytes]
    log: Path


class _Processes:
    """Memory server and zygote. `end` ends them in the reverse order, by force after STOP_S."""

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._started: list[_Process] = []

    def start(
        self, name: str, command: tuple[str, ...], environment: Mapping[str, str] | None = None
    ) -> _Process:
        log = self._directory.logs / f"{name}.log"
        with log.open("ab") as output:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **(environment or {})},
            )
        process = _Process(child=child, log=log)
        self._started.append(process)
        return process

    def await_socket(self, process: _Process, path: str) -> None:
        """Until somebody listens there, however long a model takes to load. Raises: InvalidSpec, EngineEnded."""
        while True:
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(path)
                return
            if process.child.poll() is not None:
                error = run_directory.read_error(self._directory)
                code = process.child.returncode
                raise error or EngineEnded(
                    last_words(process.log, f"{process.log.stem} ended with exit code {code}")
                )
            time.sleep(POLL_S)

    def end(self) -> None:
        for process in reversed(self._started):
            process.child.terminate()
            try:
                process.child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.child.kill()
                process.child.wait()


def refuse_shareless(config: AgentConfig) -> None:
    """Raises: InvalidSpec where lanes have no shares that can be measured one by one."""
    if not configure.moves_shares(config.partition.isolation):
        given = config.partition.isolation.value
        allowed = "Auto or MPS" if config.device == "CUDA" else "Auto, MPS or GreenContext"
        raise InvalidSpec("spec.partition.isolation", given, f"{allowed}, for a profile")
    if configure.has_duplex_lane(config):  # two processes of their own would have the whole GPU each
        allowed = "MPS, for a profile: its costs and curves serve GreenContext too"
        raise InvalidSpec("spec.partition.isolation", "GreenContext on CUDA", allowed)
