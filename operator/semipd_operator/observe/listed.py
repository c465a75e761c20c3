"""Has kopf brought every service and class that is there? It does not say so itself."""

from __future__ import annotations

from lightkube import AsyncClient

from semipd_operator import kinds
from semipd_operator.observe.census import CHUNK
from semipd_operator.observe.world import World
from semipd_shell.informer import Key


class Listed:
    """Of a whole cluster. What is counted before would be too few, and written twice."""

    def __init__(self, client: AsyncClient, world: World) -> None:
        self._client, self._world = client, world
        self._epoch = 0
        self._seen_epoch = -1  # of which everything has been seen

    def begin_anew(self) -> None:
        """The world is emptied."""
        self._epoch += 1

    async def is_whole(self) -> bool:
        """Asks the API server until it once is. Raises: ApiError, httpx2.HTTPError."""
        epoch = self._epoch
        if self._seen_epoch != epoch and await self._has_all():
            self._seen_epoch = epoch
        return self._seen_epoch == self._epoch

    async def _has_all(self) -> bool:
        async for found in self._client.list(kinds.CLASS, chunk_size=CHUNK):
            if found["metadata"]["name"] not in self._world.class_views:
                return False
        async for found in self._client.list(kinds.SERVICE, namespace="*", chunk_size=CHUNK):
            if Key(found["metadata"]["namespace"], found["metadata"]["name"]) not in self._world.services:
                return False
        return True
