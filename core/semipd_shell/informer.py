"""One kind's objects, kept as the API server has them: list, then watch, for ever; an outage only makes it older.

lightkube's own retry dies with the connection and never times out, so this loop owns both. After an error the next list drops
what has vanished meanwhile; after a silence longer than STALL_S the watch is opened anew where it was.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import httpx2
from lightkube import ApiError, AsyncClient

from semipd_shell import log

CHUNK = 200  # objects per page of a list: a page of pods is 8 MB until it is trimmed
SERVER_TIMEOUT_S = 300  # a watch's length, asked of the server
STALL_S = SERVER_TIMEOUT_S + 10
FIRST_DELAY_S, MAX_DELAY_S = 0.2, 15.0
GONE = 410

_log = log.logger(__name__)

Object = Mapping[str, Any]


class Key(NamedTuple):
    namespace: str
    name: str


class Informer:
    """`on_change` gets the key, the object before (None: new) and now (None: deleted).

    `name`: of the one object to watch. `keep`: what of an object is kept; its key and resource version must be in it.
    """

    def __init__(
        self,
        client: AsyncClient,
        resource: Any,
        on_change: Callable[[Key, Object | None, Object | None], None],
        *,
        namespace: str | None = None,
        labels: dict[str, Any] | None = None,
        name: str | None = None,
        keep: Callable[[Object], Object] = lambda found: found,
    ) -> None:
        self.objects: dict[Key, Object] = {}
        self.listed = asyncio.Event()  # the first list is complete
        self.listed_at_s = 0.0  # of the event loop's clock, the last list
        self._client = client
        self._resource = resource
        self._on_change = on_change
        self._selection: dict[str, Any] = {"namespace": namespace or "*", "labels": labels}
        if name is not None:
            self._selection["fields"] = {"metadata.name": name}
        self._keep = keep

    async def run(self) -> None:
        delay_s = FIRST_DELAY_S
        while True:
            try:
                version = await self._list()
                delay_s = FIRST_DELAY_S
                while True:
                    version = await self._watch(version)
            except (ApiError, httpx2.HTTPError, OSError, TimeoutError) as error:
                if _is_gone(error):
                    continue
                _log.warning("watch ended", kind=self._resource.__name__, problem=str(error))
                await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))
                delay_s = min(2 * delay_s, MAX_DELAY_S)

    async def _list(self) -> str:
        found: dict[Key, Object] = {}
        pages = self._client.list(self._resource, chunk_size=CHUNK, **self._selection)
        async for item in pages:
            found[_key(item)] = self._keep(item)
        for key in [key for key in self.objects if key not in found]:
            self._note(key, None)
        for key, item in found.items():
            if not _is_same(self.objects.get(key), item):
                self._note(key, item)
        self.listed_at_s = asyncio.get_running_loop().time()
        self.listed.set()
        return str(pages.resourceVersion)

    async def _watch(self, version: str) -> str:
        """Until nothing has come for STALL_S: the version to go on from, since a quiet kind is no reason to list it again."""
        watch = self._client.watch(
            self._resource,
            **self._selection,
            resource_version=version,
            server_timeout=SERVER_TIMEOUT_S,
        )
        events: AsyncIterator[tuple[str, Object]] = aiter(watch)
        while True:
            try:
                async with asyncio.timeout(STALL_S):
                    kind, item = await anext(events)
            except TimeoutError:
                return version
            version = item["metadata"]["resourceVersion"]
            self._note(_key(item), None if kind == "DELETED" else self._keep(item))

    def _note(self, key: Key, item: Object | None) -> None:
        before = self.objects.get(key)
        if item is None:
            self.objects.pop(key, None)
        else:
            self.objects[key] = item
        self._on_change(key, before, item)


def _key(item: Any) -> Key:
    return Key(item["metadata"].get("namespace", ""), item["metadata"]["name"])


def _is_same(before: Object | None, now: Object) -> bool:
    return before is not None and before["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]


def _is_gone(error: BaseException) -> bool:
    return isinstance(error, ApiError) and error.status.code == GONE
