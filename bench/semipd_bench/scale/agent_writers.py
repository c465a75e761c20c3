"""The Kubernetes side of all agents: wishes come in by a watch, status goes out on transitions, and by a heartbeat.

One watch stands for the thousands that real agents hold, which cost the API server and not the operator.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import httpx2
from lightkube import ApiError, AsyncClient

from semipd_agent.kubernetes.partition_object import to_wish
from semipd_agent.kubernetes.partition_source import PARTITION
from semipd_agent.kubernetes.status_writer import HEARTBEAT_S, JITTER, MANAGER
from semipd_bench.scale.agent_status import status_of
from semipd_bench.scale.fleet import PodName, parse_pod_name
from semipd_bench.scale.traffic import EngineTraffic
from semipd_core.agent_config import PartitionWire, WishWire
from semipd_core.api import codec
from semipd_core.api.fields import API_VERSION
from semipd_core.api.partition import PodPartitionStatus
from semipd_shell import log
from semipd_shell.informer import Informer, Key, Object

SWITCH_S = 1.3  # from wish to effect, as `bench switch` finds it
CONCURRENCY = 16
RETRY_S = 1.0

_log = log.logger(__name__)


@dataclass(slots=True)
class AgentState:
    wish: WishWire
    generation: int
    written: PodPartitionStatus = field(default_factory=PodPartitionStatus)


class AgentWriters:
    def __init__(self, client: AsyncClient, traffic: Mapping[PodName, EngineTraffic]) -> None:
        self.writes = 0
        self._client = client
        self._traffic = traffic
        self._states: dict[Key, AgentState] = {}
        self._heartbeats: list[tuple[float, Key]] = []
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._informer = Informer(client, PARTITION, self._note)

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            tasks.create_task(self._beat())

    def _note(self, key: Key, _: Object | None, now: Object | None) -> None:
        if now is None:
            self._states.pop(key, None)
            return
        wish, generation = to_wish(codec.decode_partition(now).spec), now["metadata"]["generation"]
        state = self._states.get(key)
        if state is None:
            self._states[key] = AgentState(wish=wish, generation=generation)
            # Agents of a fleet have started at any time: so their heartbeats are spread from the beginning.
            self._plan_heartbeat(key, random.uniform(0, HEARTBEAT_S))
        elif state.wish.decision_id == wish.decision_id:
            return
        else:
            state.wish, state.generation = wish, generation
        self._start(self._switch(key))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _switch(self, key: Key) -> None:
        state, traffic = self._states[key], self._traffic[parse_pod_name(key.name)]
        wanted = (state.wish.target.prefill_percent, state.wish.target.decode_percent)
        await self._write(key)
        if wanted != traffic.split:
            await asyncio.sleep(SWITCH_S)
            traffic.split = wanted
            await self._write(key)

    async def _write(self, key: Key) -> None:
        """Tried until it is written."""
        async with self._slots:
            while True:
                try:
                    await self._write_once(key)
                    return
                except (ApiError, httpx2.HTTPError, OSError) as error:
                    _log.warning("status not written", name=key.name, problem=repr(error))
                    await asyncio.sleep(RETRY_S)

    async def _write_once(self, key: Key) -> None:
        state = self._states[key]
        prefill, decode = self._traffic[parse_pod_name(key.name)].split
        status = status_of(
            key.name,
            state.wish,
            PartitionWire(prefill_percent=prefill, decode_percent=decode),
            generation=state.generation,
            old=state.written,
            now=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "SemiPDPartition",
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": codec.encode(status),
        }
        await self._client.apply(
            PARTITION.Status(manifest),
            name=key.name,
            namespace=key.namespace,
            field_manager=MANAGER,
            force=True,
        )
        state.written = status
        self.writes += 1

    def _plan_heartbeat(self, key: Key, in_s: float) -> None:
        heapq.heappush(self._heartbeats, (time.monotonic() + in_s, key))

    async def _beat(self) -> None:
        while True:
            while self._heartbeats and self._heartbeats[0][0] <= time.monotonic():
                _, key = heapq.heappop(self._heartbeats)
                if key in self._states:
                    self._start(self._write(key))
                    self._plan_heartbeat(key, HEARTBEAT_S * random.uniform(1 - JITTER, 1 + JITTER))
            await asyncio.sleep(0.1)
