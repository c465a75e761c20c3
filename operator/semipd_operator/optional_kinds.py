"""Kinds of other projects, which the cluster may have, get or lose at any time: who they are, and an informer for each."""

from __future__ import annotations

import asyncio

from lightkube import ApiError, AsyncClient
from lightkube.generic_resource import create_global_resource

from semipd_operator.observe.world import World
from semipd_operator.plan.optional_children import INFERENCE_POOL, POD_MONITOR
from semipd_shell import log

LISTED_TIMEOUT_S = 30.0  # of a kind that has just been found
FORBIDDEN, NOT_FOUND = 403, 404

_CRD = create_global_resource(
    "apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions"
)
_CRD_NAMES = {
    POD_MONITOR: "podmonitors.monitoring.coreos.com",
    INFERENCE_POOL: "inferencepools.inference.networking.k8s.io",
}

_log = log.logger(__name__)


class OptionalKinds:
    """`found`: those whose children `world` knows.

    `namespace` None: the whole cluster. An operator of one namespace that may not look has none.
    """

    def __init__(self, client: AsyncClient, world: World, namespace: str | None) -> None:
        self.found: tuple[str, ...] = ()
        self._client, self._world, self._namespace = client, world, namespace
        self._informing: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> bool:
        """Whether there are others than at the last look. Raises: one of FAILURES."""
        there = [kind for kind, name in _CRD_NAMES.items() if await self._is_there(name)]
        for task in self._informing.values():
            if task.done():
                task.result()
        for kind in [kind for kind in self._informing if kind not in there]:
            self._end(kind)
        for kind in there:
            if kind not in self._informing:
                await self._begin(kind)
        before, self.found = self.found, tuple(self._informing)
        if before != self.found:
            _log.info("kinds of other projects", found=self.found)
        return before != self.found

    async def _begin(self, kind: str) -> None:
        """What cannot be listed counts as not there: half a world would be planned for otherwise."""
        informer = self._world.watch_optional(_short(kind))
        self._informing[kind] = asyncio.create_task(informer.run())
        try:
            async with asyncio.timeout(LISTED_TIMEOUT_S):
                await informer.listed.wait()
        except TimeoutError:
            _log.warning("kind not listed", kind=kind, waited_s=LISTED_TIMEOUT_S)
            self._end(kind)

    def _end(self, kind: str) -> None:
        self._informing.pop(kind).cancel()
        self._world.forget_optional(_short(kind))

    async def _is_there(self, name: str) -> bool:
        try:
            await self._client.get(_CRD, name)
        except ApiError as error:
            if error.status.code == NOT_FOUND:
                return False
            if error.status.code == FORBIDDEN and self._namespace is not None:
                return False
            raise
        return True


def _short(kind: str) -> str:
    """Without its group and version."""
    return kind.rpartition("/")[2]
