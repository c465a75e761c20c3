"""`python -m semipd_agent --run-dir DIR`: supervises the engines of one pod or machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import uvicorn
from fastapi import FastAPI

from semipd_agent import configure
from semipd_agent.agent import Agent
from semipd_agent.commands import Commands
from semipd_agent.device.inventory import Device, open_device
from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.gpu_assignment import known_uuids, settle_gpus
from semipd_agent.http.app import build_app, build_readings
from semipd_agent.isolation_probe import Settled, settle_isolation
from semipd_agent.journal.file import Journal
from semipd_agent.kubernetes.first_spec import adopt_first_spec
from semipd_agent.kubernetes.follow import follow_partition
from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import AgentConfig
from semipd_core.engine_config import EngineConfig
from semipd_core.errors import DeviceError, InvalidSpec, SemipdError
from semipd_shell import channel, files, log
from semipd_shell.agent_watch import AgentLock

EXIT_INVALID = 2
EXIT_ANOTHER_AGENT = 3


class AgentServer(uvicorn.Server):
    """Signals are the agent's: they drain, and the server ends last."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def main(argv: Sequence[str] | None = None, commands: Commands | None = None) -> int:
    parser = argparse.ArgumentParser(prog="semipd-agent")
    parser.add_argument("--run-dir", required=True, type=Path)
    run_directory = RunDirectory(parser.parse_args(argv).run_dir.resolve())
    log.configure("agent")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log every scrape
    try:
        return _run(run_directory, commands or Commands())
    except (InvalidSpec, DeviceError) as error:
        print(error, file=sys.stderr)
        return EXIT_INVALID
    except SemipdError as error:
        print(error, file=sys.stderr)
        return 1


def _run(run_directory: RunDirectory, commands: Commands) -> int:
    config = read_config(run_directory)
    lock = AgentLock(str(run_directory.agent_lock))
    if not lock.acquire():
        print(f"{run_directory.agent_lock}: another agent lives", file=sys.stderr)
        return EXIT_ANOTHER_AGENT
    device = open_device(config.device)
    watched = device if isinstance(device, NvmlDevice) else None
    found = device.inventory() if watched is None else watched.look()
    log.logger(__name__).info("agent starts", service=config.service, device=msgspec.to_builtins(found))
    config = adopt_first_spec(config, run_directory)
    journal = Journal(run_directory.journal)
    gpus = settle_gpus(config, run_directory, journal.state.processes, [unit.uuid for unit in found.units])
    if watched is not None:
        watched.keep_to(known_uuids(gpus))
    asyncio.run(_settle_and_serve(config, run_directory, journal, commands, device, gpus))
    lock.release()
    return 0


async def _settle_and_serve(
    config: AgentConfig,
    run_directory: RunDirectory,
    journal: Journal,
    commands: Commands,
    device: Device,
    gpus: Sequence[Sequence[str]],
) -> None:
    """The isolation comes first: it is in all that engines are told. `gpus`: of each engine.

    Raises: InvalidSpec, JournalUnwritable, OSError.
    """
    watched = device if isinstance(device, NvmlDevice) else None
    settled = await settle_isolation(
        config,
        run_directory,
        journal,
        commands.mps_control,
        sharing=device.sharing,
        look=None if watched is None else watched.look(),
    )
    config = configure.with_isolation(config, settled.isolation.isolation)
    engines = write_configs(config, run_directory, gpus)
    await serve(config, engines, run_directory, journal, commands, settled, watched)


def read_config(run_directory: RunDirectory) -> AgentConfig:
    """Raises: InvalidSpec."""
    path = run_directory.service_config
    try:
        return msgspec.json.decode(path.read_bytes(), type=AgentConfig)
    except OSError as error:
        raise InvalidSpec(path.name, error.strerror, "a readable file") from error
    except msgspec.MsgspecError as error:
        raise InvalidSpec(path.name, str(error), "an AgentConfig as JSON") from error


def write_configs(
    config: AgentConfig, run_directory: RunDirectory, gpus: Sequence[Sequence[str]]
) -> list[EngineConfig]:
    """Each engine's `engine.json`, and `proxy.json` where there are several. `gpus`: of each engine. Raises: OSError."""
    run_directory.logs.mkdir(mode=0o700, exist_ok=True)
    names = configure.engine_ids(config)
    cpus = configure.split_cpus(sorted(os.sched_getaffinity(0)), config.engines)
    engines = [
        configure.build_engine_config(config, name, cores, run_directory, own)
        for name, cores, own in zip(names, cpus, gpus, strict=True)
    ]
    for engine in engines:
        run_directory.engine(engine.engine_id).mkdir(mode=0o700, exist_ok=True)
        files.write_atomically(run_directory.engine_config(engine.engine_id), msgspec.json.encode(engine))
    if len(engines) > 1:
        proxy = configure.build_proxy_config(config, engines, run_directory)
        files.write_atomically(run_directory.proxy_config, msgspec.json.encode(proxy))
    return engines


async def serve(
    config: AgentConfig,
    engines: Sequence[EngineConfig],
    run_directory: RunDirectory,
    journal: Journal,
    commands: Commands,
    settled: Settled,
    gpus: NvmlDevice | None = None,
) -> None:
    """Until drained; the HTTP server answers to the end."""
    agent = Agent(
        config, engines, run_directory, journal, commands, settled.mps, gpus, isolation=settled.isolation
    )
    if agent.gpus is not None and gpus is not None:
        agent.gpus.take(gpus.look())  # before anything starts on them
    _drain_on_signals(agent)
    apps = {channel.listen(str(run_directory.agent_socket)): build_app(agent)}
    companions = []
    if config.kubernetes is not None:
        apps[_listen(config.kubernetes.agent_port)] = build_readings(agent)
        companions.append(follow_partition(agent, config.kubernetes))
    servers = {listener: _server(app) for listener, app in apps.items()}
    serving = [asyncio.create_task(server.serve(sockets=[listener])) for listener, server in servers.items()]
    try:
        await agent.run(companions)
    finally:
        for server in servers.values():
            server.should_exit = True
        await asyncio.gather(*serving)
        run_directory.agent_socket.unlink(missing_ok=True)


def _server(app: FastAPI) -> AgentServer:
    return AgentServer(uvicorn.Config(app, lifespan="off", log_config=None, access_log=False))


def _listen(port: int) -> socket.socket:
    """On every address of the pod, IPv6 too where it has that. Raises: InvalidSpec if nobody can listen there."""
    try:
        return socket.create_server(
            ("", port),
            family=socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET,
            dualstack_ipv6=socket.has_dualstack_ipv6(),
            backlog=128,
        )
    except OSError as error:
        raise InvalidSpec("--agent-port", port, f"a port that is free ({error.strerror})") from None


def _drain_on_signals(agent: Agent) -> None:
    """The first signal drains; one more stops waiting for open requests."""
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        if len(received) == 1:
            agent.drain()
        else:
            agent.hurry()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)


if __name__ == "__main__":
    sys.exit(main())
