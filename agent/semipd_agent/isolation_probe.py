"""The probe at start: is MPS to be had, and if not, what else? Its answer is kept in the journal, and holds as long as that does.

So an agent that is replaced goes on as its lanes do; a pod or command that starts anew, without a journal, asks again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from semipd_agent import configure
from semipd_agent.device.reading import Look
from semipd_agent.isolation import choose, refuse_green_contexts, refuse_mps
from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal
from semipd_agent.mps import processes
from semipd_agent.mps.controller import MpsController
from semipd_agent.mps.preflight import GpuSharing, Refusal
from semipd_agent.run_directory import RunDirectory
from semipd_agent.strays import end_strays
from semipd_core.agent_config import AS_ASKED, PROBE_PASSED, AgentConfig, IsolationStatus
from semipd_core.partition import Isolation
from semipd_shell import log

MPS_DEADLINE_S = 90.0  # a server makes contexts on every GPU first

_log = log.logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """`mps`: the controller of what runs already or is to run; None without MPS."""

    isolation: IsolationStatus
    mps: MpsController | None = None


async def settle_isolation(
    config: AgentConfig,
    run_directory: RunDirectory,
    journal: Journal,
    mps_control: Sequence[str],
    *,
    sharing: Callable[[], list[GpuSharing]],
    look: Look | None,
) -> Settled:
    """Before anything else starts. `look`: at the GPUs, None on a CPU, where there is nothing to choose.

    Raises: JournalUnwritable.
    """
    settings = config.partition
    found = IsolationStatus(isolation=settings.isolation, reason=AS_ASKED, message="")
    mps: MpsController | None = None
    if look is not None:
        run_directory.no_mps_pipes.mkdir(mode=0o700, parents=True, exist_ok=True)
    if look is not None and settings.fallbacks:
        if journal.state.isolation is not None:
            found = journal.state.isolation
        else:
            found, mps = await _probe(config, run_directory, journal, mps_control, sharing, look)
        say = _log.info if found.reason == PROBE_PASSED else _log.warning
        say("isolation", isolation=found.isolation, reason=found.reason, message=found.message)
    uses_mps = configure.uses_mps(configure.with_isolation(config, found.isolation))
    if uses_mps and mps is None:
        mps = MpsController(mps_control, journal, run_directory, sharing=sharing)
    return Settled(isolation=found, mps=mps)


async def _probe(
    config: AgentConfig,
    run_directory: RunDirectory,
    journal: Journal,
    mps_control: Sequence[str],
    sharing: Callable[[], list[GpuSharing]],
    look: Look,
) -> tuple[IsolationStatus, MpsController | None]:
    settings = config.partition
    refusals: dict[Isolation, Refusal] = {}
    mps: MpsController | None = None
    if settings.isolation is Isolation.MPS:
        await _end_leftovers(run_directory, journal)
        mps = MpsController(mps_control, journal, run_directory, sharing=sharing)
        if (no_mps := refuse_mps(await mps.settle(MPS_DEADLINE_S))) is not None:
            refusals[Isolation.MPS] = no_mps
    cuda = look.versions.cuda if look.versions is not None else None
    if (no_green := refuse_green_contexts(cuda, settings, config.num_ranks)) is not None:
        refusals[Isolation.GREEN_CONTEXT] = no_green
    found = choose(settings, refusals)
    if mps is not None and found.isolation is not Isolation.MPS:
        mps.hurry()
        await mps.run()
        mps = None
    journal.append(
        entry.IsolationChosen(isolation=found.isolation, reason=found.reason, message=found.message)
    )
    return found, mps


async def _end_leftovers(run_directory: RunDirectory, journal: Journal) -> None:
    """A daemon of an agent that died before it had chosen, or of a run directory whose journal is gone."""
    found = processes.find(str(run_directory.mps_pipes))
    await end_strays([facts.identity for facts in found.daemons])
    if MpsController.name in journal.state.processes:
        journal.note(entry.Exited(process=MpsController.name))
