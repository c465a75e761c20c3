"""`semipd up`: serve a service file on this machine until told to stop."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from semipd_agent.processes.identity import read_identity
from semipd_agent.run_directory import RunDirectory
from semipd_cli import run_directory
from semipd_cli.arguments import integer, seconds
from semipd_cli.device import detect_device
from semipd_cli.init.serve import Job, serve
from semipd_cli.profile_subject import read_profile
from semipd_cli.service_config import build_agent_config
from semipd_cli.service_file import read_service
from semipd_cli.settings import read_settings
from semipd_core.agent_config import AgentConfig
from semipd_core.cluster.loop import ClusterConfig, initial_state
from semipd_core.errors import InvalidSpec
from semipd_shell.agent_watch import is_held
from semipd_shell.files import write_atomically

AGENT_COMMAND = (sys.executable, "-m", "semipd_agent")


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("up", help="serve a SemiPDService on this machine")
    parser.add_argument("-f", "--file", required=True, metavar="FILE", help="a SemiPDService in YAML")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument(
        "--port", type=integer("--port", 1, 65_535), default=8000, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--run-dir", metavar="DIR", help="sockets, files and logs (default: one per service name)"
    )
    parser.add_argument(
        "--cluster-period",
        type=seconds("--cluster-period", 0.5, 3600.0),
        default=1.0,
        metavar="SECONDS",
        help="between two looks of the cluster loop (default: %(default)s)",
    )
    parser.add_argument(
        "--profile",
        metavar="FILE",
        help="of `semipd profile`: the loops start from it instead of from nothing",
    )
    parser.add_argument("--keep-run-dir", action="store_true", help="leave the logs behind")


def run(args: argparse.Namespace, agent_command: Sequence[str] = AGENT_COMMAND) -> int:
    """Serve. `agent_command` is what to start, without `--run-dir DIR`.

    Raises: InvalidSpec, SemipdError, OSError.
    """
    started_s = time.monotonic()
    service = read_service(args.file)
    config = build_agent_config(
        service, read_settings(), present=detect_device(), host=args.host, port=args.port
    )
    if args.profile is not None:
        config = msgspec.structs.replace(config, profile=read_profile(args.profile, config))
    initial_state(ClusterConfig.of(config))  # refuses bounds without a legal split
    check_port(args.host, args.port)
    root = run_directory.roots(os.environ)[0]
    return serve_config(
        config,
        Path(args.run_dir) if args.run_dir else root / config.service,
        agent_command=agent_command,
        cluster_period_s=args.cluster_period,
        keeps_files=args.keep_run_dir,
        started_s=started_s,
    )


def serve_config(
    config: AgentConfig,
    path: Path,
    *,
    agent_command: Sequence[str],
    cluster_period_s: float | None,
    keeps_files: bool,
    started_s: float,
) -> int:
    """Serve in the run directory `path` until told to stop. `started_s`: monotonic, when the command began.

    Raises: InvalidSpec, SemipdError, OSError.
    """
    directory, lock = run_directory.claim(path)
    try:
        if is_held(str(directory.agent_lock)):
            keeps_files = True
            stop = f"semipd down --run-dir {directory.path}"
            raise InvalidSpec(
                "--run-dir", str(directory.path), f"one without a running agent; `{stop}` stops it"
            )
        record = _prepare(directory, config)
        job = Job(
            config=config,
            directory=directory,
            record=record,
            agent_command=(*agent_command, "--run-dir", str(directory.path)),
            cluster_period_s=cluster_period_s,
            started_s=started_s,
            say=_say,
        )
        asyncio.run(serve(job))
    finally:
        if not keeps_files:
            run_directory.remove(directory)
        os.close(lock)
    return 0


def _prepare(directory: RunDirectory, config: AgentConfig) -> run_directory.UpRecord:
    run_directory.clear(directory)
    directory.logs.mkdir(mode=0o700)
    write_atomically(directory.service_config, msgspec.json.encode(config))
    identity = read_identity(os.getpid())
    assert identity is not None
    record = run_directory.UpRecord(
        pid=identity.pid,
        start_ticks=identity.start_ticks,
        boot_id=identity.boot_id,
        url=service_url(config.host, config.port),
        service=config.service,
    )
    run_directory.write_record(directory, record)
    return record


def service_url(host: str, port: int) -> str:
    """Where a client on this machine finds the service that listens on `host`."""
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{reachable}]:{port}/v1" if ":" in reachable else f"http://{reachable}:{port}/v1"


def check_port(host: str, port: int) -> None:
    """Raises: InvalidSpec if nobody can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise InvalidSpec("--host", host, f"an address of this machine ({error.strerror})") from None
    with contextlib.closing(socket.socket(family, kind)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise _port_refusal(error, host, port) from None


def _port_refusal(error: OSError, host: str, port: int) -> InvalidSpec:
    if error.errno == errno.EADDRINUSE:
        return InvalidSpec("--port", port, f"a free port; this one is in use on {host}")
    if error.errno == errno.EACCES:
        return InvalidSpec("--port", port, "a port that this user may listen on, such as 1024..65535")
    return InvalidSpec("--host", host, f"an address of this machine ({error.strerror})")


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)
