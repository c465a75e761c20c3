"""The cluster loop over the engines of one agent: scrape windows, ask `semipd_core.cluster.loop`, put the wishes it names."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from semipd_agent.configure import with_isolation
from semipd_cli.agent_client import AgentClient
from semipd_core.agent_config import AgentConfig, AgentStatus
from semipd_core.cluster import loop as cluster
from semipd_core.errors import InvalidSpec, NotReadyYet
from semipd_core.partition import Wish
from semipd_core.telemetry import EngineReport
from semipd_core.wishes import from_wire, to_wire

STATUS_RETRY_S = 0.2


async def run_cluster_loop(
    client: AgentClient,
    config: AgentConfig,
    period_s: float,
    say: Callable[[str], None],
    answered: Callable[[], None],
) -> None:
    """Until cancelled, one round each `period_s`; `answered` is called when the agent has answered.

    By the isolation that the agent has in force: it chooses once, when it starts.
    """
    chosen = (await _ask_status(client)).isolation
    if chosen is not None:
        config = with_isolation(config, chosen.isolation)
        if config.partition.has_fallen_back:
            say(f"isolation {chosen.isolation} ({chosen.reason}): {chosen.message}")
    settings = cluster.ClusterConfig.of(config)
    state = cluster.initial_state(settings)
    journal = DecisionLog(say)
    known: set[str] = set()
    while True:
        started_s = time.monotonic()
        reports, in_force = await _observe(client)
        if reports:
            answered()
        known |= {report.engine_id for report in reports}
        by_engine = dict.fromkeys(known) | {report.engine_id: report for report in reports}
        state, round_ = cluster.step(state, settings, by_engine, time.time(), in_force=in_force)
        journal.note(round_)
        await _put(client, round_.wishes.items(), say)
        await asyncio.sleep(max(0.0, started_s + period_s - time.monotonic()))


async def _ask_status(client: AgentClient) -> AgentStatus:
    """As soon as the agent answers: it may be replaced just now."""
    while True:
        try:
            return await client.status()
        except NotReadyYet:
            await asyncio.sleep(STATUS_RETRY_S)


async def _observe(client: AgentClient) -> tuple[list[EngineReport], Wish | None]:
    """Reports, and the wish in force. An agent that does not answer is no data."""
    try:
        reports = await client.windows()
        wish = (await client.status()).wish
    except NotReadyYet:
        return [], None
    return reports, from_wire(wish) if wish is not None else None


async def _put(client: AgentClient, wishes: Iterable[tuple[str, Wish]], say: Callable[[str], None]) -> None:
    for engine_id, wish in wishes:
        try:
            await client.put_wish(to_wire(wish), engine_id)
        except (InvalidSpec, NotReadyYet) as error:
            say(f"cluster: {engine_id} did not take {wish.target}: {error}")


class DecisionLog:
    """Says each move, and each hold whose reason is not that of the round before."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._last_reason: str | None = None

    def note(self, round_: cluster.ClusterRound) -> None:
        decision = round_.decision
        if round_.changed or decision.reason != self._last_reason:
            verb = "moves to" if round_.changed else "holds"
            self._say(f"cluster: {verb} {decision.partition} ({decision.reason}): {decision.message}")
        self._last_reason = decision.reason
