"""kopf's watches of services and classes, in a thread of their own, begun anew when the kinds have gone and come back.

kopf learns at its start what there is to watch, ends when a kind that it watches is gone or an answer is not what it expects (an
error within a watch, half a line, a 5xx for a minute), and then cancels every task of its loop. So it starts when both kinds are
served, has a loop that nothing else runs in, and begins anew after any end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx2
import kopf
from lightkube import AsyncClient

from semipd_core.errors import SemipdError
from semipd_operator import kinds
from semipd_operator.handlers import build_registry, build_settings
from semipd_operator.kopf_session import ImpatientVault, Sessions
from semipd_operator.observe.census import Census
from semipd_operator.observe.world import Object, World
from semipd_shell import log
from semipd_shell.api_client import FAILURES, describe
from semipd_shell.informer import Key

NOT_FOUND = 404
RETRY_S = 2.0
MAX_DELAY_S = 30.0
STEADY_S = 60.0  # a watch of kopf's that has gone on for so long was no failure at once

_log = log.logger(__name__)


class KopfStuck(SemipdError):
    """It would have ended by itself long ago."""


class KopfWatch:
    """`namespace` None: the whole cluster. `identity`: else kopf asks for the user's name, and a container's has none.

    `on_forget` is called before all services and classes are forgotten.
    """

    def __init__(
        self,
        client: AsyncClient,
        namespace: str | None,
        world: World,
        identity: str,
        on_forget: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._world = world
        self._identity: Any = identity
        self._census = Census(client, namespace, world)
        self.answers: Counter[str] = Counter()  # of the API server to kopf, by status code or error
        self.restarts = 0
        self._on_forget = on_forget

    async def run(self) -> None:
        """Until cancelled. What kopf raises is logged, and it begins anew, later each time."""
        delay_s = RETRY_S
        while True:
            await self._until_served()
            await self._drop_vanished()
            began_s = time.monotonic()
            problem = "it has ended"
            try:
                await self._watch()
            except Exception as error:
                problem = describe(error)
            self.restarts += 1
            delay_s = RETRY_S if time.monotonic() - began_s > STEADY_S else min(2 * delay_s, MAX_DELAY_S)
            _log.warning("kopf begins anew", problem=problem, delay_s=delay_s)
            await asyncio.sleep(delay_s)

    async def _drop_vanished(self) -> None:
        """What was deleted unseen must not stay; kopf tells of what is there."""
        try:
            await self._census.take()
        except FAILURES as error:  # taken again with each resync
            _log.warning("services and classes not held against what is there", problem=describe(error))

    async def _until_served(self) -> None:
        while not (are_served := await self._are_served()):
            if are_served is False:
                _log.warning("waits for the CustomResourceDefinitions of semipd.io")
                self._forget()
            await asyncio.sleep(RETRY_S)

    async def _are_served(self) -> bool | None:
        """None while the API server cannot be asked: what is known then stays."""
        try:
            await _first(self._client.list(kinds.SERVICE, namespace=self._namespace or "*", chunk_size=1))
            await _first(self._client.list(kinds.CLASS, chunk_size=1))
        except httpx2.HTTPStatusError as error:  # of a group that is not there the answer is no Status object
            return bool(error.response.status_code != NOT_FOUND)  # kopf says what else is wrong
        except FAILURES:
            return None
        return True

    async def _watch(self) -> None:
        stop = threading.Event()
        notes = _Notes(self._world, asyncio.get_running_loop())
        watching = asyncio.create_task(asyncio.to_thread(asyncio.run, self._kopf(notes, stop)))
        try:
            await asyncio.shield(watching)
        except asyncio.CancelledError:
            stop.set()
            await watching
            raise

    async def _kopf(self, notes: _Notes, stop: threading.Event) -> None:
        """In a loop of its own, which ends with this, and cancels what is left. Raises: what kopf raised, KopfStuck."""
        sessions = Sessions()
        running = asyncio.create_task(self._operator(notes, stop, sessions))
        closed = asyncio.create_task(sessions.until_closed())
        try:
            await asyncio.wait({running, closed}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise KopfStuck("kopf has closed its session and does not end")
            await running
        finally:
            stop.set()  # or the thread in which kopf waits for it would hold the loop's end up

    async def _operator(self, notes: _Notes, stop: threading.Event, sessions: Sessions) -> None:
        await kopf.operator(
            registry=build_registry(notes, self.answers, sessions),
            settings=build_settings(),
            identity=self._identity,
            namespaces=[self._namespace] if self._namespace else [],
            clusterwide=self._namespace is None,
            standalone=True,
            stop_flag=stop,
            vault=ImpatientVault(),
        )

    def _forget(self) -> None:
        """With their kinds the objects are gone."""
        self._on_forget()
        for key in list(self._world.services):
            self._world.note_service(key, None)
        for name in list(self._world.class_views):
            self._world.note_class(name, None)


class _Notes:
    """Brings what kopf sees to the loop that the world lives in, in its order."""

    def __init__(self, world: World, loop: asyncio.AbstractEventLoop) -> None:
        self._world = world
        self._loop = loop

    def note_service(self, key: Key, found: Object | None) -> None:
        self._loop.call_soon_threadsafe(self._world.note_service, key, found)

    def note_class(self, name: str, found: Object | None) -> None:
        self._loop.call_soon_threadsafe(self._world.note_class, name, found)


async def _first(objects: Any) -> None:
    async for _ in objects:
        return
