"""`python -m semipd_operator`: the operator, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from datetime import UTC, datetime
from typing import Any

import aiohttp
from lightkube import AsyncClient

from semipd_core.errors import InvalidSpec
from semipd_operator.apply.applier import Applier, Fenced
from semipd_operator.apply.recorder import Recorder
from semipd_operator.class_statuses import ClassStatuses
from semipd_operator.health import Health, serve_health
from semipd_operator.kopf_watch import KopfWatch
from semipd_operator.lease import Election
from semipd_operator.observe.census import Census
from semipd_operator.observe.listed import Listed
from semipd_operator.observe.revisions import Revisions
from semipd_operator.observe.scrape import Scraper, open_client
from semipd_operator.observe.world import World
from semipd_operator.optional_kinds import OptionalKinds
from semipd_operator.plan.plan import Installation
from semipd_operator.reconcile import Reconciler
from semipd_operator.rounds import Rounds
from semipd_operator.settings import OperatorSettings, read_settings
from semipd_operator.work_queue import WorkQueue
from semipd_shell import log
from semipd_shell.api_client import FAILURES, describe, open_api_client, retry_after_s
from semipd_shell.informer import Key

LEASE_NAME = "semipd-operator"
CLASSES_EVERY_S = 0.5  # asked for until all are known
CLASSES_RETRY_S = 2.0  # after an error
KINDS_RETRY_S = 2.0
YOUNG_OBJECTS = (
    50_000  # before a collection: a page of a list is that many, and hardly ever garbage in cycles
)

_log = log.logger(__name__)


class Operator:
    """Wires the parts; each decides for itself."""

    def __init__(
        self,
        settings: OperatorSettings,
        client: AsyncClient,
        agents: aiohttp.ClientSession,
        answers: Counter[str],
    ) -> None:
        self.settings = settings
        self.client = client
        self._answers = answers
        self.election = Election(client, settings.namespace, LEASE_NAME, settings.identity, time.monotonic)
        self.applier = Applier(client, self.election.is_leading)
        self.world = World(
            client, settings.watch_namespace, self._note_dirty, self._note_gone, self._note_class
        )
        self.census = Census(client, settings.watch_namespace, self.world)
        self.listed = Listed(client, self.world, settings.watch_namespace)
        self.optional_kinds = OptionalKinds(client, self.world, settings.watch_namespace)
        self.class_statuses = ClassStatuses(self.world, self.applier, self.listed)
        self.kopf_watch = KopfWatch(
            client, settings.watch_namespace, self.world, settings.identity, self.listed.begin_anew
        )
        self.rounds = Rounds(
            Scraper(agents, settings.agent_port),
            settings.round_seconds,
            self.world.pods,
            self.world.partitions,
            self._note_dirty,
            canary_start_s=settings.canary_start_seconds,
        )
        self.queue = WorkQueue(self._reconcile)
        self.health = Health()
        self._reconciler: Reconciler | None = None

    async def run(self) -> None:
        """Until cancelled. Writes begin once every kind has been listed: half a world would be planned for otherwise."""
        informers = [asyncio.create_task(informer.run()) for informer in self.world.informers]
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.election.run())
            tasks.create_task(self.kopf_watch.run())
            tasks.create_task(serve_health(self))
            await asyncio.gather(*(informer.listed.wait() for informer in self.world.informers))
            gc.freeze()  # what is kept of the cluster is no garbage: looking through it would be a quarter of the CPU
            while not await self._look_for_kinds():
                await asyncio.sleep(KINDS_RETRY_S)
            installation = Installation(
                namespace=self.settings.namespace,
                engine_image=self.settings.engine_image,
                proxy_image=self.settings.proxy_image,
                optional_kinds=self.optional_kinds.found,
                api_server_cidrs=self.settings.api_server_cidrs,
            )
            recorder = Recorder(self.client, self.settings.identity, lambda: datetime.now(UTC))
            self._reconciler = Reconciler(
                self.world,
                self.applier,
                self.rounds,
                installation,
                recorder,
                Revisions(self.client),
                self.census,
                on_room=self.queue.add,
            )
            self._note_dirty(None)
            tasks.create_task(self.queue.run(self.settings.workers))
            tasks.create_task(self.rounds.run(self.election.is_leading))
            if self.settings.watch_namespace is None:
                tasks.create_task(self.class_statuses.run())
            tasks.create_task(self._await_classes())
            tasks.create_task(self._resync())
            tasks.create_task(_first_end(informers))

    def _note_dirty(self, key: Key | None) -> None:
        for each in [key] if key is not None else list(self.world.services):
            self.queue.add(each)
        self.class_statuses.note()

    def _note_class(self) -> None:
        self.class_statuses.note()

    def _note_gone(self, kind: str, key: Key) -> None:
        """A child that goes before a turn has seen it is not one that the informer has yet to see."""
        self.applier.forget((kind, key.namespace, key.name))

    async def _reconcile(self, key: Key) -> None:
        """Without the lead, or the classes, nothing is done: the turn comes again with them. One that fails has ended too."""
        assert self._reconciler is not None
        try:
            if self.election.is_leading() and self.listed.has_classes:
                with contextlib.suppress(Fenced):
                    await self._reconciler.reconcile(key)
        finally:
            self.health.reconciled()

    async def _await_classes(self) -> None:
        """Under built-in defaults a service of a default class would be another one, and roll out as such."""
        while True:
            delay_s = CLASSES_EVERY_S
            if not self.listed.has_classes:
                try:
                    if await self.listed.look_for_classes():
                        self._note_dirty(None)
                except FAILURES as error:
                    delay_s = max(CLASSES_RETRY_S, retry_after_s(error))
                    _log.warning("classes not known yet", problem=describe(error), delay_s=delay_s)
            await asyncio.sleep(delay_s)

    async def _look_for_kinds(self) -> bool:
        """Whether it is known which of them there are: they may be installed after us."""
        try:
            if await self.optional_kinds.look() and self._reconciler is not None:
                self._reconciler.take_kinds(self.optional_kinds.found)
                self._note_dirty(None)
        except FAILURES as error:
            _log.warning("kinds of other projects not known", problem=describe(error))
            return False
        return True

    async def _resync(self) -> None:
        """All services again when the lead is won, and every so often."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.settings.resync_seconds):
                    await self.election.changed.wait()
            if self.election.changed.is_set():
                self.election.changed.clear()
                assert self._reconciler is not None
                self._reconciler.begin_anew()
            try:
                await self.census.take()
            except FAILURES as error:
                _log.warning("services and classes not held against what is there", problem=describe(error))
            self._note_dirty(None)
            await self._look_for_kinds()

    def answers(self) -> Counter[str]:
        """Of the API server, by status code or error, since the start."""
        return self._answers + self.kopf_watch.answers


async def _first_end(tasks: list[asyncio.Task[None]]) -> None:
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


async def serve(settings: OperatorSettings) -> None:
    answers: Counter[str] = Counter()
    client = open_api_client(answers)
    async with open_client() as agents:
        operator = Operator(settings, client, agents, answers)
        await _until_stopped(operator.run())
        await operator.election.resign()
    await client.aclose()


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    """Raises: what `work` raised before it was told to stop."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    working = asyncio.create_task(work)
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if working.done():
        working.result()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


def _raise_file_limit() -> None:
    """As far as it may go: each agent that hangs holds a connection until its timeout."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def main() -> int:
    log.configure("operator")
    _raise_file_limit()
    gc.set_threshold(YOUNG_OBJECTS)
    for name in ("httpx", "httpx2", "kopf"):  # a line for each request and each event
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        settings = read_settings()
    except InvalidSpec as error:
        print(error, file=sys.stderr)
        return 2
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
