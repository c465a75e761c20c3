"""Which living process is which, after the agent before this one died? Pure: the journal and `/proc` in, an `Adoption` out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from semipd_agent.journal.entries import Started
from semipd_agent.journal.recovery import JournalledProcess
from semipd_agent.processes.identity import Identity, ProcessFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Adoption:
    """By journal name. `gone`: journalled and not alive. `strays`: alive and accounted for by nobody; they are ended."""

    alive: Mapping[str, Identity] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    strays: tuple[Identity, ...] = ()


def identity_of(started: Started) -> Identity:
    return Identity(pid=started.pid, start_ticks=started.start_ticks, boot_id=started.boot_id)


def plan_adoption(
    journalled: Mapping[str, JournalledProcess],
    found: Sequence[ProcessFacts],
    command_of: Callable[[str], tuple[str, ...] | None],
) -> Adoption:
    """`command_of` names the full command line of a process, None for lanes.

    A process whose start was journalled and whose pid was not is known by its command line, if that is unambiguous; a lane
    is not, since all lanes show the zygote's. Who is in a living lane's process group belongs to the lane.
    """
    by_identity = {facts.identity: facts for facts in found}
    alive = {
        name: identity_of(process.started)
        for name, process in journalled.items()
        if process.started is not None and identity_of(process.started) in by_identity
    }
    lanes = {identity.pid for name, identity in alive.items() if command_of(name) is None}
    unclaimed = {
        identity: facts
        for identity, facts in by_identity.items()
        if identity not in alive.values() and facts.group not in lanes
    }
    for name in journalled:
        command = command_of(name)
        matches = [identity for identity, facts in unclaimed.items() if facts.arguments == command]
        if name not in alive and len(matches) == 1:
            alive[name] = matches[0]
            del unclaimed[matches[0]]
    gone = tuple(name for name in journalled if name not in alive)
    return Adoption(alive=alive, gone=gone, strays=tuple(unclaimed))
