"""Wishes from the agent's own SemiPDPartition. While the API server is away the last one taken holds: it is in the journal."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from lightkube import AsyncClient
from lightkube.generic_resource import create_namespaced_resource

from semipd_agent.journal.file import JournalUnwritable
from semipd_agent.kubernetes.partition_object import read_status, to_wish
from semipd_agent.wishes.source import WishRefused, WishSink
from semipd_core.agent_config import WishWire
from semipd_core.api import codec
from semipd_core.api.fields import GROUP
from semipd_core.api.partition import PodPartitionStatus
from semipd_core.errors import InvalidSpec
from semipd_shell import log
from semipd_shell.informer import Informer, Key, Object

RETRY_S = 1.0
PARTITION: Any = create_namespaced_resource(GROUP, "v1alpha1", "SemiPDPartition", "semipdpartitions")

_log = log.logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A partition as it was when it was seen first, also by an agent that has just started."""

    uid: str | None
    status: PodPartitionStatus


class PartitionSource:
    """A `WishSource`. `generation` and `refusal` are of the spec looked at last, `found` of the object; None: none yet."""

    def __init__(self, client: AsyncClient, namespace: str, name: str) -> None:
        self.generation: int | None = None
        self.refusal: str | None = None
        self.found: Found | None = None
        self._pending: Object | None = None
        self._news = asyncio.Event()
        self._taken: WishWire | None = None
        self._informer = Informer(client, PARTITION, self._note, namespace=namespace, name=name)

    def _note(self, _: Key, __: Object | None, now: Object | None) -> None:
        """A partition that is gone changes nothing: its pod goes with it, or the operator makes it again."""
        if now is not None:
            self._note_object(now, now["metadata"].get("uid"))
        self._pending = now
        self._news.set()

    def _note_object(self, now: Object, uid: str | None) -> None:
        if self.found is None or self.found.uid != uid:
            self.found = Found(uid=uid, status=read_status(now))

    async def run(self, sink: WishSink) -> None:
        """Until cancelled. What ends the watch ends this too: nobody would notice an agent that no longer listens."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._informer.run())
            while True:
                await self._news.wait()
                self._news.clear()
                if self._pending is not None and not self._take(sink, self._pending):
                    await asyncio.sleep(RETRY_S)
                    self._news.set()

    def _take(self, sink: WishSink, found: Object) -> bool:
        """Whether this spec is done with, taken or not."""
        try:
            spec = codec.read_partition(found).spec
            wish = to_wish(spec)
            if wish != self._taken:
                sink.take(wish, None)
                self._taken = wish
        except (InvalidSpec, WishRefused) as error:
            self._say(str(error))
        except JournalUnwritable as error:
            self._say(str(error))
            return False
        else:
            self._say(None)
        self.generation = found["metadata"].get("generation")
        return True

    def _say(self, refusal: str | None) -> None:
        if refusal is not None and refusal != self.refusal:
            _log.error("partition refused", problem=refusal)
        self.refusal = refusal
