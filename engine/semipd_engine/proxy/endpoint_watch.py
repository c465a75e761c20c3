"""Keeps the upstreams as a Service's EndpointSlices say. While the API server is away, the last word holds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource

from semipd_engine.proxy.connections import Connections
from semipd_engine.proxy.endpoints import read_endpoints
from semipd_engine.proxy.upstreams import Upstreams
from semipd_shell import log
from semipd_shell.informer import Informer, Key, Object

SERVICE_LABEL = "kubernetes.io/service-name"
ENDPOINT_SLICE: Any = create_namespaced_resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices")
SETTLE_S = 0.05  # a pod that moves from one slice to another is two events

_log = log.logger(__name__)


class EndpointWatch:
    def __init__(
        self,
        client: AsyncClient,
        namespace: str,
        service: str,
        upstreams: Upstreams,
    ) -> None:
        self._upstreams = upstreams
        self._news = asyncio.Event()
        self._informer = Informer(
            client,
            ENDPOINT_SLICE,
            self._note,
            namespace=namespace,
            labels={SERVICE_LABEL: service},
            keep=_trim,
        )

    @property
    def is_listed(self) -> bool:
        return self._informer.listed.is_set()

    def _note(self, _: Key, __: Object | None, ___: Object | None) -> None:
        self._news.set()

    async def run(self, connections: Connections) -> None:
        """Until cancelled. Connections to pods that are gone are closed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            await self._informer.listed.wait()
            while True:
                await self._sync(connections)
                await self._news.wait()
                await asyncio.sleep(SETTLE_S)

    async def _sync(self, connections: Connections) -> None:
        self._news.clear()
        gone = self._upstreams.sync(read_endpoints(self._informer.objects.values()))
        _log.info("endpoints", upstreams=sorted(self._upstreams.by_name), gone=[each.name for each in gone])
        for each in gone:
            await connections.drop(each)


def _trim(found: Object) -> Mapping[str, Any]:
    metadata = found["metadata"]
    kept = {name: metadata.get(name) for name in ("name", "namespace", "resourceVersion")}
    return {
        "metadata": kept,
        **{name: found.get(name) for name in ("addressType", "ports", "endpoints")},
    }
