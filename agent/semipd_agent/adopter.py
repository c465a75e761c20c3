"""Takes over the living processes of the agent before this one, and ends those that nobody accounts for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from semipd_agent.adoption import plan_adoption
from semipd_agent.commands import Commands
from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal
from semipd_agent.mps.controller import MpsController
from semipd_agent.mps.processes import FOREGROUND, find
from semipd_agent.processes.identity import Identity, scan
from semipd_agent.run_directory import RunDirectory
from semipd_agent.strays import BeforeKill, end_strays
from semipd_agent.supervision.engine import ROLES, EngineSupervisor
from semipd_agent.supervision.shared import SharedProcess


async def adopt_processes(
    journal: Journal,
    run_directory: RunDirectory,
    commands: Commands,
    engines: Mapping[str, EngineSupervisor],
    shared: Sequence[SharedProcess | MpsController],
    before_kill: BeforeKill,
) -> None:
    """Before anything is started. `before_kill` gets the pid of a stray, which may be a lane, before it is killed."""
    journalled = journal.state.processes
    found = [*scan(commands.all, str(run_directory.path)), *find(str(run_directory.mps_pipes)).daemons]
    plan = plan_adoption(journalled, found, lambda name: _command_of(name, run_directory, commands))
    await end_strays(plan.strays, before_kill)
    for name, process in journalled.items():
        if not _adopt(name, process.starting, plan.alive.get(name), engines, shared):
            journal.note(entry.Exited(process=name))


def _adopt(
    name: str,
    starting: entry.Starting,
    identity: Identity | None,
    engines: Mapping[str, EngineSupervisor],
    shared: Sequence[SharedProcess | MpsController],
) -> bool:
    """Whether the process has a place. A lane has one even if it is gone: its coordinator must hear of its exit."""
    engine_id, _, part = name.rpartition("/")
    if not engine_id:
        child = next((process.child for process in shared if process.name == name), None)
        if child is None or identity is None:
            return False
        return child.pid == identity.pid or child.adopt(identity)  # MPS may run since the probe at start
    if engine_id not in engines:
        return False
    if starting.lane_role is not None:
        engines[engine_id].adopt_lane(part, starting.lane_role, starting.percent or 100, identity)
        return True
    return identity is not None and engines[engine_id].children[part].adopt(identity)


def _command_of(name: str, run_directory: RunDirectory, commands: Commands) -> tuple[str, ...] | None:
    """The full command line of the process of that name; None for lanes, which show the zygote's."""
    engine_id, _, part = name.rpartition("/")
    if name == "zygote":
        return commands.of_zygote(run_directory)
    if name == MpsController.name:
        return (*commands.mps_control, FOREGROUND)
    if name == "proxy":
        return commands.of_proxy(run_directory)
    if part in ROLES:
        return commands.of_engine(part, run_directory.engine_config(engine_id))
    return None
