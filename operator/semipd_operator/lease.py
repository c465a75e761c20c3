"""Who leads, by a Lease: one operator writes, the others watch and wait.

The clock is this process's monotonic one: a lease is old when its holder has not renewed it for `lease_s` *as seen here*, so
clocks that disagree elect nobody twice. A leader that cannot renew fences itself before another may take over.
Source: k8s.io/client-go/tools/leaderelection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lightkube import ApiError, AsyncClient

from semipd_operator.kinds import LEASE
from semipd_shell import log
from semipd_shell.api_client import FAILURES, describe

NOT_FOUND, CONFLICT = 404, 409

_log = log.logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    lease_s: float = 15.0  # without a renewal for so long, another takes over
    fence_s: float = 10.0  # without a renewal for so long, the leader stops writing
    retry_s: float = 2.0


class Election:
    """`is_leading()` is asked before each write."""

    def __init__(
        self,
        client: AsyncClient,
        namespace: str,
        name: str,
        identity: str,
        now_s: Callable[[], float],
        times: LeaseTimes | None = None,
    ) -> None:
        self.times = times or LeaseTimes()
        self.identity = identity
        self._client, self._namespace, self._name = client, namespace, name
        self._now_s = now_s
        self._renewed_s: float | None = None
        self._seen_version = ""
        self._seen_s = now_s()
        self.changed = asyncio.Event()

    def is_leading(self) -> bool:
        return self._renewed_s is not None and self._now_s() - self._renewed_s < self.times.fence_s

    async def run(self) -> None:
        """Until cancelled. The lead may also end between two rounds, by the clock."""
        led = False
        while True:
            try:
                async with asyncio.timeout(self.times.retry_s * 2):
                    await self._round()
            except FAILURES as error:
                _log.warning("lease not renewed", problem=describe(error))
            if self.is_leading() != led:
                led = not led
                _log.info("leads" if led else "does not lead", identity=self.identity)
                self.changed.set()
            await asyncio.sleep(self.times.retry_s)

    async def resign(self) -> None:
        """Let another take over at once. Errors are of no matter: the lease ends by itself."""
        if not self.is_leading():
            return
        self._renewed_s = None
        try:
            lease = await self._get()
            if lease is not None and lease["spec"].get("holderIdentity") == self.identity:
                lease["spec"]["holderIdentity"] = ""
                await self._client.replace(lease, name=self._name, namespace=self._namespace)
        except FAILURES as error:
            _log.warning("lease not given back", problem=str(error))

    async def _round(self) -> None:
        asked_s = self._now_s()
        lease = await self._get()
        if lease is None:
            await self._client.create(LEASE(self._manifest(transitions=0)))
            self._renew(asked_s)
            return
        spec = lease["spec"]
        mine = spec.get("holderIdentity") == self.identity
        if not mine and not self._is_old(lease):
            self._renewed_s = None
            return
        transitions = spec.get("leaseTransitions", 0) + (not mine)
        renewed = self._manifest(transitions=transitions)
        renewed["metadata"]["resourceVersion"] = lease["metadata"]["resourceVersion"]
        try:
            await self._client.replace(LEASE(renewed), name=self._name, namespace=self._namespace)
        except ApiError as error:
            if error.status.code != CONFLICT:
                raise
            self._renewed_s = None  # somebody was quicker
            return
        self._renew(asked_s)

    def _renew(self, asked_s: float) -> None:
        """A lead that was lost by the clock since the last round is won anew: what was left undone meanwhile is to be done."""
        if not self.is_leading():
            self.changed.set()
        self._renewed_s = asked_s

    async def _get(self) -> Any:
        try:
            return await self._client.get(LEASE, self._name, namespace=self._namespace)
        except ApiError as error:
            if error.status.code == NOT_FOUND:
                return None
            raise

    def _is_old(self, lease: Any) -> bool:
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen_version:
            self._seen_version, self._seen_s = version, self._now_s()
        if not lease["spec"].get("holderIdentity"):
            return True
        return self._now_s() - self._seen_s >= self.times.lease_s

    def _manifest(self, transitions: int) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": self._name, "namespace": self._namespace},
            "spec": {
                "holderIdentity": self.identity,
                "leaseDurationSeconds": round(self.times.lease_s),
                "acquireTime": now,
                "renewTime": now,
                "leaseTransitions": transitions,
            },
        }
