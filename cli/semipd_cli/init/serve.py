"""Serving until told to stop: the agent kept alive, its errors watched, wishes put each period, then a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable
from dataclasses import dataclass

from semipd_agent.run_directory import RunDirectory
from semipd_cli.agent_client import AgentClient
from semipd_cli.init.agent_keeper import AfterExit, AgentFailed, AgentKeeper, become_subreaper, tail
from semipd_cli.init.cluster import run_cluster_loop
from semipd_cli.init.ending import DrainTime, Ending
from semipd_cli.init.first_of import first_of
from semipd_cli.init.progress import StartClock, wait_until_ready
from semipd_cli.init.stop_signals import StopSignals
from semipd_cli.run_directory import UpRecord, read_error, write_record
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import NotReadyYet, SemipdError

_ERROR_POLL_S = 0.5
_WATCH_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    config: AgentConfig
    directory: RunDirectory
    record: UpRecord
    agent_command: tuple[str, ...]
    cluster_period_s: float | None  # None: the cluster loop is somebody else's
    started_s: float  # monotonic, when the command began
    say: Callable[[str], None]


async def serve(job: Job) -> None:
    """Returns after SIGTERM, SIGINT or SIGHUP, or once the agent was drained by somebody else; all processes are gone then.

    A service that has been ready is drained whatever ends it, as far as there is an agent to do it.
    Raises: InvalidSpec from an engine that cannot run; AgentFailed; OSError.
    """
    become_subreaper()
    signals = StopSignals(job.say)
    signals.install()
    keeper = AgentKeeper(job.agent_command, job.directory.log("agent"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, keeper.reap)
    ready = asyncio.Event()
    async with AgentClient(str(job.directory.agent_socket)) as client:
        try:
            keeper.start()
            await first_of(
                signals.wait(), _watch_errors(job), _keep(job, keeper), _work(job, client, keeper, ready)
            )
        except SemipdError as error:
            if ready.is_set():  # it is told now, not only when everything has ended
                job.say(f"stopping, open requests finish first: {str(error).splitlines()[0]}")
            raise
        finally:
            # A pod may answer requests before it is ready, but never before its agent does.
            may_be_open = keeper.has_answered if signals.is_requested else ready.is_set()
            ending = Ending(
                client=client, keeper=keeper, signals=signals, directory=job.directory, say=job.say
            )
            await ending.end(_drain_time(job.config) if may_be_open else None)


def _drain_time(config: AgentConfig) -> DrainTime:
    return DrainTime(lag_s=config.drain_lag_s, timeout_s=config.drain_timeout_seconds)


async def _watch_errors(job: Job) -> None:
    """Raises: InvalidSpec once a process has left one."""
    while True:
        error = read_error(job.directory)
        if error is not None:
            raise error
        await asyncio.sleep(_ERROR_POLL_S)


async def _keep(job: Job, keeper: AgentKeeper) -> None:
    step = await keeper.keep(job.say)
    error = read_error(job.directory)
    if error is not None:
        raise error
    if step is AfterExit.REFUSED:
        raise AgentFailed(f"the agent refuses its input\n{tail(job.directory.log('agent'))}")


async def _work(job: Job, client: AgentClient, keeper: AgentKeeper, ready: asyncio.Event) -> None:
    clock = StartClock(job.started_s, job.say)
    status = await wait_until_ready(client, job.directory, clock, keeper.answered)
    ready.set()
    write_record(job.directory, _with_phases(job.record, clock))
    job.say(f"serving {job.config.served_name} at {status.url}")
    if job.cluster_period_s is None:
        await _watch_agent(client, keeper)
    else:
        await run_cluster_loop(client, job.config, job.cluster_period_s, job.say, keeper.answered)


async def _watch_agent(client: AgentClient, keeper: AgentKeeper) -> None:
    while True:
        await asyncio.sleep(_WATCH_S)
        with contextlib.suppress(NotReadyYet):
            await client.status()
            keeper.answered()


def _with_phases(record: UpRecord, clock: StartClock) -> UpRecord:
    return UpRecord(
        pid=record.pid,
        start_ticks=record.start_ticks,
        boot_id=record.boot_id,
        url=record.url,
        service=record.service,
        phase_seconds=dict(clock.seconds),
    )
