"""Plays the Deployment controller, the scheduler and the kubelets: pods for each Deployment, and the status of both."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import httpx2
from lightkube import ApiError, AsyncClient
from lightkube.types import PatchType

from semipd_bench.scale.fleet import (
    Fleet,
    PodName,
    build_pod,
    build_pod_status,
    build_workload_status,
    parse_service_name,
    pod_name,
)
from semipd_operator.kinds import DEPLOYMENT, POD
from semipd_shell import log
from semipd_shell.informer import Informer, Key, Object

WORKERS = 16
CONFLICT = 409
RETRY_S = 1.0

_log = log.logger(__name__)


class Controllers:
    def __init__(self, client: AsyncClient, fleet: Fleet) -> None:
        self._client = client
        self._fleet = fleet
        self._has_pods: set[Key] = set()
        self._waiting: asyncio.Queue[Key] = asyncio.Queue()
        self._informer = Informer(client, DEPLOYMENT, self._note, labels={"app.kubernetes.io/name": "semipd"})

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            for _ in range(WORKERS):
                tasks.create_task(self._work())

    def _note(self, key: Key, _: Object | None, now: Object | None) -> None:
        if now is not None and not _is_seen(now):
            self._waiting.put_nowait(key)

    async def _work(self) -> None:
        while True:
            key = await self._waiting.get()
            try:
                await self._follow(key)
            except (ApiError, httpx2.HTTPError, OSError) as error:
                _log.warning("deployment not followed", name=key.name, problem=repr(error))
                asyncio.get_running_loop().call_later(RETRY_S, self._waiting.put_nowait, key)

    async def _follow(self, key: Key) -> None:
        found = self._informer.objects.get(key)
        if found is None or _is_seen(found):
            return
        if key not in self._has_pods:
            for replica in range(self._fleet.pods_per_service):
                await self._start_pod(PodName(parse_service_name(key.name), replica), found)
            self._has_pods.add(key)
        status = build_workload_status(found["metadata"]["generation"], self._fleet.pods_per_service)
        await self._patch_status(DEPLOYMENT, key.name, key.namespace, status)

    async def _start_pod(self, pod: PodName, workload: Object) -> None:
        metadata = workload["metadata"]
        manifest = build_pod(pod, workload["spec"]["template"], metadata["name"], metadata["uid"])
        try:
            await self._client.create(POD(manifest))
        except ApiError as error:
            if error.status.code != CONFLICT:  # it is there: an earlier try got so far
                raise
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        status = build_pod_status(self._fleet.address_of(pod), now)
        await self._patch_status(POD, pod_name(pod), metadata["namespace"], status)

    async def _patch_status(
        self, resource: Any, name: str, namespace: str, status: Mapping[str, Any]
    ) -> None:
        await self._client.patch(
            resource.Status, name, {"status": status}, namespace=namespace, patch_type=PatchType.MERGE
        )


def _is_seen(workload: Object) -> bool:
    generation: int = workload["metadata"]["generation"]
    seen: int = workload.get("status", {}).get("observedGeneration", 0)
    return seen >= generation
