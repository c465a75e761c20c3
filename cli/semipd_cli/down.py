"""`semipd down`: drain and stop a service, also one whose `semipd up` is gone."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from semipd_agent.processes.identity import Identity, is_alive, read_identity
from semipd_agent.run_directory import RunDirectory
from semipd_cli import run_directory
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import SemipdError

_POLL_S = 0.05
_STOP_S = 30.0  # beside the drain
_KILL_AFTER_S = 3.0
_AGENT = "semipd_agent"
_ENGINE = "semipd_engine"


class StillRunning(SemipdError):
    """Processes are there after the time they had to stop."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("down", help="drain and stop a running service")
    parser.add_argument("--run-dir", metavar="DIR", help="of the service (default: the only one that runs)")


def run(args: argparse.Namespace) -> int:
    """Raises: InvalidSpec if there is no service; StillRunning."""
    directory = run_directory.find(args.run_dir)
    record = run_directory.read_record(directory)
    deadline_s = time.monotonic() + _drain_seconds(directory) + _STOP_S
    if record is not None and is_alive(record.identity):
        print(f"stopping {record.service}, open requests finish first", flush=True)
        _signal(record.identity, signal.SIGTERM)
        _wait_until_gone(record.identity, deadline_s)
    else:
        _stop_leftovers(directory, deadline_s)
        run_directory.remove(directory)
    print("stopped")
    return 0


def _stop_leftovers(directory: RunDirectory, deadline_s: float) -> None:
    """The agent first: told to stop, it ends its own processes; then each that still runs."""
    for agent in processes_of(directory.path, _AGENT):
        print(f"stopping an agent without `semipd up` (pid {agent.pid})", flush=True)
        _signal(agent, signal.SIGTERM)
        _wait_until_gone(agent, deadline_s)
    asked_s = time.monotonic()
    number = signal.SIGTERM
    while left := list(processes_of(directory.path, _ENGINE)):
        for identity in left:
            _signal(identity, number)
        if time.monotonic() - asked_s > _KILL_AFTER_S:
            number = signal.SIGKILL
        time.sleep(_POLL_S)


def processes_of(directory: Path, package: str) -> Iterator[Identity]:
    """Living processes of `package` that were started for `directory`; lanes show the command line of their zygote."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_text(errors="replace").split("\0")
        except OSError:
            continue
        if is_for(arguments, directory, package) and (identity := read_identity(int(entry.name))):
            yield identity


def is_for(arguments: list[str], directory: Path, package: str) -> bool:
    """Whether a command line is `… -m PACKAGE[.…] … DIRECTORY[/…] …`."""
    modules = [after for flag, after in itertools.pairwise(arguments) if flag == "-m"]
    own = str(directory)
    return any(module.split(".")[0] == package for module in modules) and any(
        argument == own or argument.startswith(f"{own}/") for argument in arguments
    )


def _signal(identity: Identity, number: signal.Signals) -> None:
    """Signal exactly this process, by pidfd."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        if is_alive(identity):
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
    finally:
        os.close(pidfd)


def _wait_until_gone(identity: Identity, deadline_s: float) -> None:
    while is_alive(identity):
        if time.monotonic() > deadline_s:
            raise StillRunning(f"pid {identity.pid} still runs; a second SIGTERM hurries it")
        time.sleep(_POLL_S)


def _drain_seconds(directory: RunDirectory) -> int:
    try:
        config = msgspec.json.decode(directory.service_config.read_bytes(), type=AgentConfig)
    except (OSError, msgspec.DecodeError) as error:
        print(f"no service.json that can be read ({error}); waiting without a drain", file=sys.stderr)
        return 0
    return config.drain_timeout_seconds
