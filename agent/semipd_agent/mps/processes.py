"""Control daemons and servers among the living processes, told apart by the pipe directory in their environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from semipd_agent.mps.environment import PIPE_DIRECTORY
from semipd_agent.processes.identity import ProcessFacts, read_identity

CONTROL = "nvidia-cuda-mps-control"
SERVER = "nvidia-cuda-mps-server"
DEFAULT_PIPE_DIRECTORY = "/tmp/nvidia-mps"  # noqa: S108 - the driver's
FOREGROUND = "-f"


@dataclass(frozen=True, slots=True, kw_only=True)
class MpsProcesses:
    """`daemons` and `servers` use the pipe directory asked for; `foreign_server_pids` another, or one that cannot be read."""

    daemons: tuple[ProcessFacts, ...]
    servers: tuple[ProcessFacts, ...]
    foreign_server_pids: tuple[int, ...]


def find(pipe_directory: str) -> MpsProcesses:
    daemons: list[ProcessFacts] = []
    servers: list[ProcessFacts] = []
    foreign: list[int] = []
    for facts, is_server, used in _all():
        if used == pipe_directory:
            (servers if is_server else daemons).append(facts)
        elif is_server:
            foreign.append(facts.identity.pid)
    return MpsProcesses(daemons=tuple(daemons), servers=tuple(servers), foreign_server_pids=tuple(foreign))


def servers() -> list[tuple[int, str | None]]:
    """PID and pipe directory of every server that lives here; None for another user's."""
    return [(facts.identity.pid, used) for facts, is_server, used in _all() if is_server]


def _all() -> Iterator[tuple[ProcessFacts, bool, str | None]]:
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        arguments = _words(entry / "cmdline") or ()
        names = {Path(argument).name for argument in arguments[:3]}  # a script's interpreter comes first
        is_server, is_daemon = SERVER in names, CONTROL in names and FOREGROUND in arguments
        if not (is_server or is_daemon):
            continue
        identity = read_identity(int(entry.name))
        if identity is not None:
            yield ProcessFacts(identity=identity, arguments=arguments), is_server, _pipe_directory(entry)


def _pipe_directory(entry: Path) -> str | None:
    """None: another user's."""
    variables = _words(entry / "environ")
    if variables is None:
        return None
    prefix = f"{PIPE_DIRECTORY}="
    found = (variable.removeprefix(prefix) for variable in variables if variable.startswith(prefix))
    return next(found, DEFAULT_PIPE_DIRECTORY)


def _words(path: Path) -> tuple[str, ...] | None:
    try:
        return tuple(path.read_text(encoding="utf-8", errors="replace").split("\0")[:-1])
    except OSError:
        return None
