"""Which process is it? A pid alone is reused; a pid with its start time and the boot is not.

Source: proc_pid_stat(5), fields 3 (state), 4 (ppid) and 22 (starttime, clock ticks since boot).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ZOMBIE_STATES = frozenset("ZXx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    pid: int
    start_ticks: int
    boot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessFacts:
    """What `/proc` says of a process that is no zombie."""

    identity: Identity
    arguments: tuple[str, ...]


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_identity(pid: int) -> Identity | None:
    """Who has `pid` now; None if nobody has, or only a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    if fields[0] in ZOMBIE_STATES:
        return None
    return Identity(pid=pid, start_ticks=int(fields[19]), boot_id=boot_id())


def is_alive(identity: Identity) -> bool:
    return read_identity(identity.pid) == identity


def scan(commands: Sequence[Sequence[str]], directory: str) -> Iterator[ProcessFacts]:
    """Living processes that run one of `commands` with an argument under `directory`.

    A process forked without exec shows the command line of its parent: lanes show the zygote's.
    """
    prefixes = tuple(tuple(command) for command in commands)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        arguments = _arguments(entry)
        if not any(arguments[: len(prefix)] == prefix for prefix in prefixes):
            continue
        if not any(argument.startswith(directory + "/") for argument in arguments):
            continue
        identity = read_identity(int(entry.name))
        if identity is not None:
            yield ProcessFacts(identity=identity, arguments=arguments)


def _arguments(entry: Path) -> tuple[str, ...]:
    try:
        return tuple((entry / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1])
    except OSError:
        return ()
