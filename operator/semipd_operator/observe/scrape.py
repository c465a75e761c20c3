"""The agents' windows, all at once within a deadline: who is slow or dead is no data, and delays nobody for long.

A fleet's reports together are hundreds of megabytes as objects, so each service's are read and handed on as soon as they are
complete.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec

from semipd_core.node.observation import running_split
from semipd_core.telemetry import EngineReport
from semipd_operator.observe.clocks import find_lag_s, moved
from semipd_operator.plan.naming import AGENT_PORT
from semipd_shell.informer import Key

CONCURRENCY = 128
AGENT_TIMEOUT_S = 3.0
BACKLOG = 32  # services whose answers wait to be worked with; further ones wait in their sockets
PATIENCE_S = 0.25  # who has not answered by then waits on without a place among CONCURRENCY
MAX_BYTES = 4 << 20
OK = 200

Addresses = Mapping[str, str]  # pod name: IP
Reports = dict[str, list[EngineReport]]  # pod name: one per engine

_decoder = msgspec.json.Decoder(list[EngineReport])


@asynccontextmanager
async def open_client() -> AsyncIterator[aiohttp.ClientSession]:
    """For a Scraper: a connection per request, since thousands kept open would be of use once a round."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True, use_dns_cache=False)
    timeout = aiohttp.ClientTimeout(total=AGENT_TIMEOUT_S)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as client:
        yield client


@dataclass(slots=True)
class _Pending:
    """A service whose agents are being asked."""

    waiting: int
    not_asked: int
    answers: dict[str, tuple[bytes, int]] = field(default_factory=dict)  # and by how many seconds they lag

    def read(self) -> Reports:
        found = {name: _read_reports(body, name, lag_s) for name, (body, lag_s) in self.answers.items()}
        return {name: reports for name, reports in found.items() if reports is not None}


class Scraper:
    """`port` of every agent. `now_s`: unix time, to which reports are moved."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        port: int = AGENT_PORT,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._port = port
        self._now_s = now_s

    async def scrape(
        self, services: Mapping[Key, Addresses], deadline_s: float
    ) -> AsyncIterator[tuple[Key, Reports]]:
        """Each service once, with the reports of those that answered: when all have, or when the time is over.

        Nobody is asked while BACKLOG services wait for whoever reads this: all answers at once would not fit into memory. A
        service that was not asked in time is left out: its silence would be ours. Who is asked has PATIENCE_S at the least.
        """
        pending = {
            key: _Pending(waiting=len(addresses), not_asked=len(addresses))
            for key, addresses in services.items()
        }
        complete: asyncio.Queue[Key] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        end_s = loop.time() + deadline_s
        has_room = asyncio.Event()
        slots = asyncio.Semaphore(CONCURRENCY)

        async def ask(key: Key, name: str, address: str) -> None:
            """In a place of `slots`, which it gives back."""
            try:
                answer = await self._fetch(address, slots)
                if answer is not None:
                    pending[key].answers[name] = answer
            finally:
                pending[key].waiting -= 1
                if pending[key].waiting == 0:
                    complete.put_nowait(key)
                if complete.qsize() >= BACKLOG:
                    has_room.clear()

        asking: set[asyncio.Task[None]] = set()

        async def ask_all() -> None:
            """A task of its own for each agent, once it has a place: as many at once would be a tenth of the memory."""
            for key, addresses in services.items():
                for name, address in addresses.items():
                    await has_room.wait()
                    await slots.acquire()
                    if loop.time() >= end_s - min(PATIENCE_S, deadline_s / 2):
                        return
                    pending[key].not_asked -= 1
                    task = asyncio.create_task(ask(key, name, address))
                    asking.add(task)
                    task.add_done_callback(asking.discard)

        for key in [key for key, each in pending.items() if each.waiting == 0]:
            complete.put_nowait(key)
        if complete.qsize() < BACKLOG:
            has_room.set()
        feeding = asyncio.create_task(ask_all())
        try:
            async for key in _until(end_s, complete, len(pending)):
                if complete.qsize() < BACKLOG:
                    has_room.set()
                yield key, pending.pop(key).read()
        finally:
            left = [feeding, *asking]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        for key, each in pending.items():
            if not each.not_asked:
                yield key, each.read()

    async def _fetch(self, address: str, slots: asyncio.Semaphore) -> tuple[bytes, int] | None:
        host = f"[{address}]" if ":" in address else address
        with _held(slots):
            asked_s = self._now_s()
            try:
                async with self._client.get(f"http://{host}:{self._port}/v1/windows") as answer:
                    lag_s = find_lag_s(answer.headers.get("Date"), asked_s, self._now_s())
                    body = await _read(answer) if answer.status == OK else None
                    return (body, lag_s) if body is not None else None
            except (aiohttp.ClientError, OSError, TimeoutError):
                return None


async def _until(at_s: float, keys: asyncio.Queue[Key], count: int) -> AsyncIterator[Key]:
    """`count` keys, or those that come before `at_s` of the event loop's clock."""
    for _ in range(count):
        try:
            async with asyncio.timeout_at(at_s):
                key = await keys.get()
        except TimeoutError:
            return
        yield key


@contextmanager
def _held(slots: asyncio.Semaphore) -> Iterator[None]:
    """A place that was taken, given back after PATIENCE_S at the latest: a dead agent costs nothing that others need."""
    is_held = True

    def give_back() -> None:
        nonlocal is_held
        if is_held:
            is_held = False
            slots.release()

    timer = asyncio.get_running_loop().call_later(PATIENCE_S, give_back)
    try:
        yield
    finally:
        timer.cancel()
        give_back()


async def _read(answer: aiohttp.ClientResponse) -> bytes | None:
    """None: more than MAX_BYTES."""
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > MAX_BYTES:
            return None
    return bytes(body)


def _read_reports(body: bytes, pod: str, lag_s: int = 0) -> list[EngineReport] | None:
    """None: it is not what an agent says, or of a split that there is not."""
    try:
        reports = _decoder.decode(body)
        for report in reports:
            running_split(report)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return [named(moved(report, lag_s) if lag_s else report, pod) for report in reports]


def named(report: EngineReport, pod: str) -> EngineReport:
    """Engine ids are unique in a pod; in a service they carry the pod's name."""
    return msgspec.structs.replace(report, engine_id=f"{pod}/{report.engine_id}")
