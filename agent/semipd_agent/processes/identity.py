"""Which process is it? A pid alone is reused; a pid with its start time and the boot is not.

Source: proc_pid_stat(5), fields 3 (state), 5 (pgrp) and 22 (starttime, clock ticks since boot).
"""

from __future__ import annotations

import os
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
    group: int = 0  # pid of the process that leads its process group


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_identity(pid: int) -> Identity | None:
    """Who has `pid` now; None if nobody has, or only a zombie."""
    fields = _stat_fields(pid)
    return None if fields is None else _identity(pid, fields)


def _identity(pid: int, fields: Sequence[str]) -> Identity:
    return Identity(pid=pid, start_ticks=int(fields[19]), boot_id=boot_id())


def _stat_fields(pid: int) -> list[str] | None:
    """From the state on; None of a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # the command's name may hold spaces and brackets
    return None if fields[0] in ZOMBIE_STATES else fields


def is_alive(identity: Identity) -> bool:
    return read_identity(identity.pid) == identity


def group_members(group: int) -> list[int]:
    """The pids in a process group, zombies left out."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []
    except PermissionError:
        pass
    pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    found = ((pid, _stat_fields(pid)) for pid in pids)
    return [pid for pid, fields in found if fields is not None and int(fields[2]) == group]


def outlives(ended: Identity) -> bool:
    """Whether somebody lives in the process group that a process led which has ended.

    Nobody gets its pid anew while there is such a group, so a living process with it means that there is none.
    """
    return read_identity(ended.pid) is None and bool(group_members(ended.pid))


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
        pid = int(entry.name)
        fields = _stat_fields(pid)
        if fields is not None:
            yield ProcessFacts(identity=_identity(pid, fields), arguments=arguments, group=int(fields[2]))


def _arguments(entry: Path) -> tuple[str, ...]:
    try:
        return tuple((entry / "cmdline").read_text(encoding="utf-8", errors="replace").split("\0")[:-1])
    except OSError:
        return ()
