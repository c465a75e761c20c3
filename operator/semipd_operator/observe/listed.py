"""Has kopf brought every service and class that is there? It does not say so itself."""

from __future__ import annotations

from lightkube import ApiError, AsyncClient

from semipd_operator import kinds
from semipd_operator.observe.census import CHUNK
from semipd_operator.observe.world import World
from semipd_shell.informer import Key

FORBIDDEN = 403


class Listed:
    """What is planned without a class that is there would be another template; what is counted before all is there, too few."""

    def __init__(self, client: AsyncClient, world: World, namespace: str | None = None) -> None:
        """`namespace` None: the whole cluster."""
        self._client, self._world, self._namespace = client, world, namespace
        self._epoch = 0
        self._seen_epoch = -1  # of which everything has been seen
        self._classes_epoch = -1  # of which all classes have

    def begin_anew(self) -> None:
        """The world is emptied."""
        self._epoch += 1

    @property
    def has_classes(self) -> bool:
        """Whether `look_for_classes` has found all of them to be known."""
        return self._classes_epoch == self._epoch

    async def look_for_classes(self) -> bool:
        """Asks the API server. An operator of one namespace that may not list them has none. Raises: one of FAILURES."""
        epoch = self._epoch
        try:
            has_all = await self._has_classes()
        except ApiError as error:
            if self._namespace is None or error.status.code != FORBIDDEN:
                raise
            has_all = True
        if has_all:
            self._classes_epoch = epoch
        return self.has_classes

    async def is_whole(self) -> bool:
        """Of a whole cluster. Asks the API server until it once is. Raises: ApiError, httpx2.HTTPError."""
        epoch = self._epoch
        if self._seen_epoch != epoch and await self._has_classes() and await self._has_services():
            self._seen_epoch = epoch
        return self._seen_epoch == self._epoch

    async def _has_classes(self) -> bool:
        async for found in self._client.list(kinds.CLASS, chunk_size=CHUNK):
            if found["metadata"]["name"] not in self._world.class_views:
                return False
        return True

    async def _has_services(self) -> bool:
        async for found in self._client.list(kinds.SERVICE, namespace="*", chunk_size=CHUNK):
            if Key(found["metadata"]["namespace"], found["metadata"]["name"]) not in self._world.services:
                return False
        return True
