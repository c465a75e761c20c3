"""One kind's objects, kept as the API server has them: list, then watch, for ever; an outage only makes it older.

lightkube's own retry dies with the connection and never times out, so this loop owns both. After an error the next list drops
what has vanished meanwhile; a watch that has ended in good order, or been silent for STALL_S, is opened anew where it was. What
fails again and again is asked for ever more seldom: only a watch that has held for STEADY_S begins anew at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from lightkube import AsyncClient

from semipd_shell import log
from semipd_shell.api_client import FAILURES, WatchEnded, describe, retry_after_s

CHUNK = 200  # objects per page of a list: a page of pods is 8 MB until it is trimmed
SERVER_TIMEOUT_S = 300  # a watch's length, asked of the server
STALL_S = 90.0  # without an event: bookmarks come every minute, from a server that has any
STEADY_S = 5.0
FIRST_DELAY_S, MAX_DELAY_S = 0.2, 15.0
BOOKMARK = "BOOKMARK"

_log = log.logger(__name__)

Object = Mapping[str, Any]


class Key(NamedTuple):
    namespace: str
    name: str


class Informer:
    """`on_change` gets the key, the object before (None: new) and now (None: deleted).

    `client`: of `open_api_client`. `name`: of the one object to watch. `keep`: what of an object is kept; its key and resource
    version must be in it.
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
        self._seen_version = ""
        self._watching_since_s: float | None = None  # of the event loop's clock; None: it lists

    async def run(self) -> None:
        """Until cancelled."""
        version: str | None = None  # to go on from; None: of a new list
        delay_s = FIRST_DELAY_S
        while True:
            self._watching_since_s = None
            try:
                version = await self._list() if version is None else version
                version = await self._watch(version)
            except FAILURES as error:
                version = self._seen_version if isinstance(error, WatchEnded) else None
                delay_s = FIRST_DELAY_S if self._has_held() else delay_s
                await self._pause(error, delay_s)
                delay_s = min(2 * delay_s, MAX_DELAY_S)

    def _has_held(self) -> bool:
        since_s = self._watching_since_s
        return since_s is not None and asyncio.get_running_loop().time() - since_s >= STEADY_S

    async def _pause(self, error: BaseException, delay_s: float) -> None:
        if not (isinstance(error, WatchEnded) and self._has_held()):
            _log.warning("watch ended", kind=self._resource.__name__, problem=describe(error))
        await asyncio.sleep(max(delay_s * random.uniform(0.5, 1.0), retry_after_s(error)))

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
        self._seen_version = version
        self._watching_since_s = asyncio.get_running_loop().time()
        while True:
            try:
                async with asyncio.timeout(STALL_S):
                    kind, item = await anext(events)
            except TimeoutError:
                _log.info("watch silent: opened anew", kind=self._resource.__name__, silent_s=STALL_S)
                return self._seen_version
            self._seen_version = item["metadata"]["resourceVersion"]
            if kind != BOOKMARK:
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
