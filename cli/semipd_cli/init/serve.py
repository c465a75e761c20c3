"""Serving until told to stop: the agent kept alive, its errors watched, wishes put each period, then a clean end."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from semipd_agent.run_directory import RunDirectory
from semipd_cli.agent_client import AgentClient
from semipd_cli.init.agent_keeper import AfterExit, AgentFailed, AgentKeeper, become_subreaper, tail
from semipd_cli.init.cluster import run_cluster_loop
from semipd_cli.init.progress import StartClock, wait_until_ready
from semipd_cli.init.stop_signals import StopSignals
from semipd_cli.run_directory import UpRecord, read_error, write_record
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import NotReadyYet

_ERROR_POLL_S = 0.5
_EXIT_POLL_S = 0.05
_WATCH_S = 5.0
_STOP_S = 15.0  # for the agent to end its processes, beside the drain
_URGENT_S = 8.0  # for the same, in haste
_BETWEEN_SIGNALS_S = 0.5  # two at once would arrive as one


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

    Raises: InvalidSpec from an engine that cannot run; AgentFailed; OSError.
    """
    become_subreaper()
    signals = StopSignals(job.say)
    signals.install()
    keeper = AgentKeeper(job.agent_command, job.directory.log("agent"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, keeper.reap)
    drain_s = 0.0
    async with AgentClient(str(job.directory.agent_socket)) as client:
        try:
            keeper.start()
            await _first_of(
                signals.wait(), _watch_errors(job), _keep(job, keeper), _work(job, client, keeper)
            )
            drain_s = job.config.drain_lag_s + job.config.drain_timeout_seconds
        finally:
            await _stop(client, keeper, signals, drain_s)


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Until the first has ended; the others are cancelled. Raises: what the first in order raised."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in tasks:
        if task in done:
            task.result()


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


async def _work(job: Job, client: AgentClient, keeper: AgentKeeper) -> None:
    clock = StartClock(job.started_s, job.say)
    status = await wait_until_ready(client, job.directory, clock, keeper.answered)
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


async def _stop(client: AgentClient, keeper: AgentKeeper, signals: StopSignals, drain_s: float) -> None:
    """Drain (if there is time for it), end the agent, then whatever it has left behind."""
    if keeper.is_running and drain_s > 0:
        with contextlib.suppress(NotReadyYet):
            await client.drain()
    keeper.send(signal.SIGTERM)
    asked_s = time.monotonic()
    deadline_s = asked_s + drain_s + _STOP_S
    is_hurried = False
    while keeper.is_running:
        now_s = time.monotonic()
        waits_for_requests = drain_s > 0 and not signals.is_urgent
        if not is_hurried and not waits_for_requests and now_s > asked_s + _BETWEEN_SIGNALS_S:
            is_hurried = True
            keeper.send(signal.SIGTERM)  # the agent's second: it waits for no request
            deadline_s = min(deadline_s, now_s + _URGENT_S)
        if now_s > deadline_s:
            keeper.send(signal.SIGKILL)
        await asyncio.sleep(_EXIT_POLL_S)
        keeper.reap()
    await keeper.end_children()
