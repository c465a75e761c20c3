"""What is known is held against what is there: kopf tells of no service or class that has vanished while it could not watch.

It lists anew after a gap, and gives an event for each object that it finds, none for one that it does not find.
"""

from __future__ import annotations

from typing import Any

from lightkube import AsyncClient

from semipd_operator import kinds
from semipd_operator.observe.world import World
from semipd_shell.informer import Key

CHUNK = 200


class Census:
    """`namespace` None: the whole cluster."""

    def __init__(self, client: AsyncClient, namespace: str | None, world: World) -> None:
        self._client, self._namespace, self._world = client, namespace, world

    async def take(self) -> None:
        """Forget what is not there. What has changed while the list was on its way is newer than the list.

        Raises: one of FAILURES.
        """
        services, classes = dict(self._world.services), dict(self._world.class_views)
        found = {
            Key(each["metadata"]["namespace"], each["metadata"]["name"])
            async for each in self._client.list(
                kinds.SERVICE, namespace=self._namespace or "*", chunk_size=CHUNK
            )
        }
        for key, service in services.items():
            if key not in found and self._world.services.get(key) is service:
                self._world.note_service(key, None)
        names = {each["metadata"]["name"] async for each in self._client.list(kinds.CLASS, chunk_size=CHUNK)}
        for name, known in classes.items():
            if name not in names and self._world.class_views.get(name) is known:
                self._world.note_class(name, None)

    async def is_there(self, key: Key) -> bool:
        """Whether the API server has this very service, asked before anything is made for it; forgets it otherwise.

        Raises: one of FAILURES.
        """
        known = self._world.services.get(key)
        if known is None:
            return False
        found: Any
        async for found in self._client.list(
            kinds.SERVICE, namespace=key.namespace, fields={"metadata.name": key.name}
        ):
            if found["metadata"]["uid"] == known["metadata"]["uid"]:
                return True
        if self._world.services.get(key) is known:
            self._world.note_service(key, None)
        return False
