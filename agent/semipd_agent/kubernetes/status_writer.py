"""Writes the status of the agent's SemiPDPartition: on transitions at once, else a heartbeat, so that thousands stay cheap."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from lightkube import AsyncClient

from semipd_agent.kubernetes.partition_source import PARTITION, Found
from semipd_core.api import codec
from semipd_core.api.fields import API_VERSION
from semipd_core.api.partition import PodPartitionStatus
from semipd_shell import log
from semipd_shell.api_client import FAILURES, describe, retry_after_s

MANAGER = "semipd-agent"
PERIOD_S = 0.5
HEARTBEAT_S = 900.0
JITTER = 0.2
FIRST_DELAY_S, MAX_DELAY_S = 1.0, 30.0
NOT_FOUND = 404

_log = log.logger(__name__)


class StatusWriter:
    """`build` gives the status as it should be, from the one written last and the time (RFC 3339).

    `found`: the partition, with what the agent before this one has written; None: not seen yet, and nothing is written.
    """

    def __init__(
        self,
        client: AsyncClient,
        namespace: str,
        name: str,
        build: Callable[[PodPartitionStatus, str], PodPartitionStatus],
        found: Callable[[], Found | None],
    ) -> None:
        self._client, self._namespace, self._name = client, namespace, name
        self._build = build
        self._found = found
        self._known: Found | None = None
        self._written = PodPartitionStatus()
        self._heartbeat_due_s = 0.0

    async def run(self) -> None:
        """Until cancelled. What cannot be written is tried again, later each time."""
        delay_s = FIRST_DELAY_S
        while True:
            try:
                await self.write_if_due(time.monotonic())
                delay_s = FIRST_DELAY_S
                await asyncio.sleep(PERIOD_S)
            except FAILURES as error:
                _log.warning("status not written", problem=describe(error))
                await asyncio.sleep(max(delay_s * random.uniform(0.5, 1.0), retry_after_s(error)))
                delay_s = min(2 * delay_s, MAX_DELAY_S)

    async def write_if_due(self, now_s: float) -> bool:
        """Whether it was written. `now_s` is monotonic. Raises: ApiError, httpx2.HTTPError."""
        found = self._found()
        if found is None:
            return False
        if found is not self._known:
            self._known, self._written = found, found.status
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = self._build(self._written, now)
        if status == self._written and now_s < self._heartbeat_due_s:
            return False
        status = replace(status, last_heartbeat_time=now)
        await self._write(status)
        self._written = status
        self._heartbeat_due_s = now_s + HEARTBEAT_S * random.uniform(1 - JITTER, 1 + JITTER)
        return True

    async def _write(self, status: PodPartitionStatus) -> None:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": "SemiPDPartition",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "status": codec.encode(status),
        }
        await self._client.apply(
            PARTITION.Status(manifest),
            name=self._name,
            namespace=self._namespace,
            field_manager=MANAGER,
            force=True,
        )
