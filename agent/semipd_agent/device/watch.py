"""Watches the pod's GPUs: looks every few seconds, hears of Xids, asks `health.decide` and `xid.decide`, says what follows.

A look that hangs holds up nothing but the next look: it runs in a thread that the agent's end does not wait for.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from semipd_agent.device import health, xid
from semipd_agent.device.facts import DeviceUnit, Inventory
from semipd_agent.device.health import GpuState, GpuVerdict, GpuView, Mark
from semipd_agent.device.reading import GpuReading, Look
from semipd_agent.device.xid import Reaction, ReactionKind
from semipd_agent.device.xid_events import XidEvents
from semipd_shell import log

PERIOD_S = 5.0
_MARKING = (ReactionKind.CORDON, ReactionKind.RESET, ReactionKind.LOST)
_log = log.logger(__name__)


class GpuDevice(Protocol):
    """`NvmlDevice`, or a fake."""

    expected: frozenset[str]  # UUIDs that `look` tells of; empty: whichever there are

    @property
    def nvml(self) -> Any: ...

    def look(self) -> Look: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuUsers:
    """PIDs of what uses the GPUs now."""

    lanes: frozenset[int] = frozenset()
    memory_servers: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What is to end, and why; carried out once none of `pids` is left."""

    pids: frozenset[int]
    reason: str


class GpuWatch:
    """`verdict` says what may run; `on_change` hears of each new one, and of orders. Use it from the event loop alone.

    `expected`: UUIDs of the GPUs in use, missing until a look finds them; no other one's Xid counts. Empty: any GPU.
    """

    def __init__(
        self,
        device: GpuDevice,
        *,
        expected: frozenset[str] = frozenset(),
        users: Callable[[], GpuUsers],
        on_change: Callable[[], None],
        period_s: float = PERIOD_S,
    ) -> None:
        self.verdict = GpuVerdict(state=GpuState.HEALTHY, reason="not looked at yet")
        self.readings: tuple[GpuReading, ...] = ()
        self.xids: Counter[tuple[str, int]] = Counter()
        self._device = device
        self._users = users
        self._on_change = on_change
        self._period_s = period_s
        self._expected = expected
        self.read_s = time.monotonic()  # when the readings were taken
        self._known = {uuid: _unseen(uuid) for uuid in expected}
        self._view = GpuView()
        self._looked_s = time.monotonic()
        self._marks: tuple[Mark, ...] = ()
        self._lane_order: Order | None = None
        self._engine_order: Order | None = None
        self._forced_end_s: float | None = None
        self._wake = asyncio.Event()

    # --- what it says -------------------------------------------------------------------------------------------

    @property
    def inventory(self) -> Inventory:
        """Every GPU that was ever seen, with what is wrong with it."""
        verdict = self.verdict
        units = [self._known[uuid] for uuid in sorted(self._known)]
        if verdict.state in (GpuState.HEALTHY, GpuState.DEGRADED):
            return Inventory(kind="CUDA", units=units)
        meant = verdict.uuids or tuple(self._known)
        ill = [
            msgspec.structs.replace(unit, healthy=False, reason=f"{verdict.state}: {verdict.reason}")
            if unit.uuid in meant
            else unit
            for unit in units
        ]
        return Inventory(kind="CUDA", units=ill)

    @property
    def why_lanes_must_end(self) -> str | None:
        self._lane_order = _open(self._lane_order, self._users().lanes)
        return self._lane_order.reason if self._lane_order else None

    @property
    def why_engines_must_end(self) -> str | None:
        self._engine_order = _open(self._engine_order, self._users().memory_servers)
        return self.verdict.must_end or (self._engine_order.reason if self._engine_order else None)

    @property
    def lanes_may_start(self) -> bool:
        return self.verdict.start_hold is None and self.why_lanes_must_end is None

    def free_bytes(self, uuid: str | None) -> int | None:
        """Of that GPU's memory, or of the only one's, at the last look."""
        found = [reading for reading in self.readings if reading.uuid == uuid or len(self.readings) == 1]
        if not found or found[0].memory_total_bytes is None or found[0].memory_used_bytes is None:
            return None
        return found[0].memory_total_bytes - found[0].memory_used_bytes

    @property
    def problem(self) -> str | None:
        if self.verdict.state is GpuState.HEALTHY:
            return None
        return f"GPU {self.verdict.state}: {self.verdict.reason}"

    # --- observe ------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()

        def on_xid(uuid: str, number: int) -> None:
            with contextlib.suppress(RuntimeError):  # the agent has ended
                loop.call_soon_threadsafe(self.note_xid, uuid, number)

        events = XidEvents(self._device.nvml, on_xid)
        events.start()
        try:
            await self._keep_looking(events)
        finally:
            events.stop(0.0)

    async def _keep_looking(self, events: XidEvents) -> None:
        look: asyncio.Future[Look] | None = None
        while True:
            self._wake.clear()
            look = look or _in_a_thread(self._device.look)
            done, _ = await asyncio.wait({look}, timeout=self._period_s)
            if done:
                self.take(look.result())
                look = None
                if self._view.error is not None or self._view.says_lost or self._view.missing:
                    events.renew()
                await self._rest()
            else:
                self._judge()

    async def _rest(self) -> None:
        """Not by `wait_for`, which up to Python 3.11 may lose a cancellation that meets its timeout (cpython #86296)."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._period_s):
                await self._wake.wait()

    def take(self, look: Look) -> None:
        """What `look` found counts from now on."""
        self._looked_s = time.monotonic()
        if look.error is None:
            self.readings, self.read_s = look.readings, self._looked_s
            self._known |= {unit.uuid: unit for unit in look.units}
        seen = {unit.uuid for unit in look.units}
        missing = () if look.error else tuple(sorted(set(self._known) - seen))
        self._view = GpuView(
            units=look.units,
            readings=look.readings,
            missing=missing,
            misses=self._view.misses + 1 if missing else 0,
            says_lost=look.is_lost,
            error=look.error,
        )
        self._judge()

    # --- decide and apply ---------------------------------------------------------------------------------------

    def _judge(self) -> None:
        now_s = time.monotonic()
        view = replace(self._view, marks=self._marks, now_s=now_s, silent_s=now_s - self._looked_s)
        self._marks = tuple(mark for mark in self._marks if health.outlives(mark, view))
        verdict = health.decide(replace(view, marks=self._marks))
        if verdict == self.verdict:
            return
        if (verdict.state, verdict.reason) != (self.verdict.state, self.verdict.reason):
            say = _log.info if verdict.state is GpuState.HEALTHY else _log.error
            say("gpu state", state=verdict.state, reason=verdict.reason)
        self.verdict = verdict
        self._on_change()

    def note_xid(self, uuid: str, number: int) -> None:
        """The driver has reported Xid `number` of the GPU `uuid` ("" if it does not say which)."""
        if uuid and self._expected and uuid not in self._expected:
            return
        now_s = time.monotonic()
        since_s = None if self._forced_end_s is None else now_s - self._forced_end_s
        reaction = xid.decide(number, since_forced_end_s=since_s)
        self.xids[uuid, number] += 1
        _log.error("xid", gpu=uuid, xid=number, reaction=reaction.kind, reason=reaction.reason)
        self._react(uuid, reaction, now_s)
        self._judge()
        self._wake.set()
        self._on_change()

    def _react(self, uuid: str, reaction: Reaction, now_s: float) -> None:
        if reaction.kind in _MARKING:
            mark = Mark(uuid=uuid, kind=reaction.kind, reason=reaction.reason, at_s=now_s)
            self._marks = (*self._marks, mark)
        elif reaction.kind is ReactionKind.RESTART_LANES:
            self._lane_order = Order(pids=self._users().lanes, reason=reaction.reason)
            self.note_forced_end()
        elif reaction.kind is ReactionKind.RESTART_ENGINE:
            self._engine_order = Order(pids=self._users().memory_servers, reason=reaction.reason)
            self.note_forced_end()

    def note_forced_end(self) -> None:
        """A lane is ended otherwise than between two steps: the driver may tell of it by an Xid."""
        self._forced_end_s = time.monotonic()


def _unseen(uuid: str) -> DeviceUnit:
    return DeviceUnit(uuid=uuid, name="", num_cores=None, memory_bytes=0, percent_step=1, healthy=True)


def _open(order: Order | None, living: frozenset[int]) -> Order | None:
    return order if order is not None and order.pids & living else None


def _in_a_thread(call: Callable[[], Look]) -> asyncio.Future[Look]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Look] = loop.create_future()

    def settle(look: Look | None, error: Exception | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        elif look is not None:
            future.set_result(look)

    def run() -> None:
        found: tuple[Look | None, Exception | None]
        try:
            found = call(), None
        except Exception as error:  # a defect: the agent's loop raises it
            found = None, error
        with contextlib.suppress(RuntimeError):  # the agent has ended
            loop.call_soon_threadsafe(settle, *found)

    threading.Thread(target=run, name="gpu-look", daemon=True).start()
    return future
