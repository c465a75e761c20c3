"""Keeps the status of every class: changes come in crowds, so it waits a while and writes each class at most once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from semipd_core.api import codec
from semipd_operator.apply.applier import Applier, Fenced
from semipd_operator.observe.listed import Listed
from semipd_operator.observe.world import World
from semipd_operator.plan.class_status import plan_class_statuses
from semipd_shell import log
from semipd_shell.api_client import describe

EVERY_S, MAX_DELAY_S = 5.0, 60.0

_log = log.logger(__name__)


class ClassStatuses:
    """Of an operator of the whole cluster: one of a namespace would count its own services alone. `now`: in UTC."""

    def __init__(
        self,
        world: World,
        applier: Applier,
        listed: Listed,
        every_s: float = EVERY_S,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._world, self._applier, self._listed = world, applier, listed
        self._every_s = every_s
        self._now = now
        self._news = asyncio.Event()

    def note(self) -> None:
        """A class, a service or a workload is another one, or the lead is won."""
        self._news.set()

    async def run(self) -> None:
        """Until cancelled. What fails is tried again, later each time."""
        failures = 0
        while True:
            await self._news.wait()
            await asyncio.sleep(min(self._every_s * 2 ** min(failures, 10), MAX_DELAY_S))
            self._news.clear()
            try:
                await self.look()
                failures = 0
            except Fenced:  # who wins the lead notes it
                failures = 0
            except Exception as error:
                failures += 1
                self._news.set()
                _log.warning("status of classes to be written again", problem=describe(error))

    async def look(self) -> None:
        """Raises: Fenced, ApiError, httpx2.HTTPError: of the classes that failed the first one's, once all had their turn."""
        if not self._applier.is_leading():
            return
        if not await self._listed.is_whole():
            self._news.set()
            return
        views = dict(self._world.class_views)
        statuses = plan_class_statuses(
            views.values(), self._world.deployed(), self._now().strftime("%Y-%m-%dT%H:%M:%SZ")
        )
        failed: list[Exception] = []
        for name, status in statuses.items():
            encoded = codec.encode(status)
            if encoded == views[name].written:
                continue
            try:
                await self._applier.apply_class_status(name, encoded)
            except Exception as error:
                failed.append(error)
        if failed:
            raise failed[0]
