"""The watch over the GPUs: what it concludes from looks and Xids, what must end, and how long."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_nvml import NvmlError, build

from semipd_agent.device import watch as watching
from semipd_agent.device.facts import DeviceUnit
from semipd_agent.device.health import LOST_FOR_S, MISSES_UNTIL_LOST, SILENT_AFTER_S, GpuState
from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.device.reading import GpuReading, Look
from semipd_agent.device.watch import GpuUsers, GpuWatch
from semipd_agent.device.xid import ECHO_S

UNITS = tuple(
    DeviceUnit(uuid=uuid, name="H200", num_cores=132, memory_bytes=1, percent_step=7, healthy=True)
    for uuid in ("GPU-1", "GPU-2")
)
WELL = Look(units=UNITS, readings=tuple(GpuReading(uuid=unit.uuid, name="H200") for unit in UNITS))
ONE = Look(units=UNITS[:1], readings=WELL.readings[:1])


class Watched:
    """A watch at a clock that the test sets, over processes that the test ends."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        self.users = GpuUsers(lanes=frozenset({1, 2}), memory_servers=frozenset({3}))
        self.changes = 0
        device: Any = SimpleNamespace(nvml=None, look=lambda: WELL)
        self.watch = GpuWatch(device, users=lambda: self.users, on_change=self._changed)
        self.watch.take(WELL)

    def _changed(self) -> None:
        self.changes += 1

    @property
    def state(self) -> GpuState:
        return self.watch.verdict.state

    def health(self) -> dict[str, bool]:
        return {unit.uuid: unit.healthy for unit in self.watch.inventory.units}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


@pytest.mark.parametrize(
    ("used_bytes", "uuid", "free_bytes"),
    [
        pytest.param([30, 70], "GPU-2", 30, id="of that GPU"),
        pytest.param([30], None, 70, id="of the only one, whatever the engine calls it"),
        pytest.param([30, 70], None, None, id="not of one of several"),
        pytest.param([None, 70], "GPU-1", None, id="not where the driver does not tell"),
    ],
)
def test_free_memory_is_that_of_the_last_look(
    watched: Watched, used_bytes: list[int | None], uuid: str | None, free_bytes: int | None
) -> None:
    readings = tuple(
        GpuReading(uuid=unit.uuid, name="H200", memory_total_bytes=100, memory_used_bytes=used)
        for unit, used in zip(UNITS, used_bytes, strict=False)
    )
    watched.watch.take(Look(units=UNITS, readings=readings))
    assert watched.watch.free_bytes(uuid) == free_bytes


def test_readings_are_as_old_as_the_look_that_found_them(watched: Watched) -> None:
    before_s, watched.now_s = watched.watch.read_s, watched.now_s + 5
    watched.watch.take(Look(error="no"))
    assert watched.watch.read_s == before_s
    watched.watch.take(WELL)
    assert watched.watch.read_s == watched.now_s


def test_lanes_of_an_xid_must_end_and_their_successors_need_not(watched: Watched) -> None:
    watched.watch.note_xid("GPU-1", 31)
    assert watched.watch.why_lanes_must_end == "Xid 31: a lane accessed memory that is not mapped"
    assert not watched.watch.lanes_may_start
    watched.users = GpuUsers(lanes=frozenset({2}))
    assert watched.watch.why_lanes_must_end is not None
    watched.users = GpuUsers(lanes=frozenset())
    assert watched.watch.lanes_may_start
    watched.users = GpuUsers(lanes=frozenset({2}))  # a pid that is used again
    assert watched.watch.why_lanes_must_end is None


def test_the_xids_that_ending_lanes_causes_end_no_more_lanes(watched: Watched) -> None:
    watched.watch.note_forced_end()
    watched.now_s += ECHO_S - 1
    watched.watch.note_xid("GPU-1", 45)
    assert watched.watch.why_lanes_must_end is None
    watched.now_s += ECHO_S
    watched.watch.note_xid("GPU-1", 45)
    assert watched.watch.why_lanes_must_end is not None
    assert watched.watch.xids["GPU-1", 45] == 2


def test_a_contained_memory_error_ends_engines_until_their_memory_servers_are_new(watched: Watched) -> None:
    watched.watch.note_xid("GPU-1", 94)
    assert "Xid 94" in (watched.watch.why_engines_must_end or "")
    assert watched.state is GpuState.HEALTHY
    watched.users = GpuUsers(memory_servers=frozenset({4}))
    assert watched.watch.why_engines_must_end is None


def test_xid_79_is_a_loss_until_the_gpu_answers_for_long_enough(watched: Watched) -> None:
    watched.watch.note_xid("GPU-2", 79)
    assert (watched.state, watched.health()) == (GpuState.LOST, {"GPU-1": True, "GPU-2": False})
    assert watched.watch.why_engines_must_end == "GPU-2: Xid 79: the GPU has fallen off the bus"
    watched.now_s += LOST_FOR_S + 1
    watched.watch.take(ONE)
    assert watched.state is GpuState.LOST
    watched.watch.take(WELL)
    assert (watched.state, watched.watch.why_engines_must_end) == (GpuState.HEALTHY, None)
    assert watched.health() == {"GPU-1": True, "GPU-2": True}


def test_a_gpu_that_is_not_found_is_lost_after_some_looks_and_stays_in_the_inventory(
    watched: Watched,
) -> None:
    for _ in range(MISSES_UNTIL_LOST - 1):
        watched.watch.take(ONE)
        assert watched.state is GpuState.HEALTHY
    watched.watch.take(ONE)
    assert (watched.state, watched.health()) == (GpuState.LOST, {"GPU-1": True, "GPU-2": False})
    watched.watch.take(WELL)
    assert watched.state is GpuState.HEALTHY


def test_a_gpu_in_use_that_no_look_of_this_agent_has_found_is_lost(watched: Watched) -> None:
    device: Any = SimpleNamespace(nvml=None, look=lambda: ONE)
    watch = GpuWatch(
        device,
        expected=frozenset({"GPU-1", "GPU-2"}),
        users=lambda: watched.users,
        on_change=watched._changed,
    )
    for _ in range(MISSES_UNTIL_LOST):
        watch.take(ONE)
    assert watch.verdict.state is GpuState.LOST
    assert watch.verdict.uuids == ("GPU-2",)
    watch.take(WELL)
    assert watch.verdict.state is GpuState.HEALTHY


def test_an_xid_of_a_gpu_that_is_not_in_use_changes_nothing(watched: Watched) -> None:
    device: Any = SimpleNamespace(nvml=None, look=lambda: ONE)
    watch = GpuWatch(
        device, expected=frozenset({"GPU-1"}), users=lambda: watched.users, on_change=watched._changed
    )
    watch.take(ONE)
    watch.note_xid("GPU-2", 79)
    assert watch.verdict.state is GpuState.HEALTHY
    watch.note_xid("", 79)
    assert watch.verdict.state is GpuState.LOST


def test_a_driver_that_goes_away_ends_nothing(watched: Watched) -> None:
    watched.watch.take(Look(error="Driver/library version mismatch"))
    assert watched.watch.problem == "GPU NoDriver: Driver/library version mismatch"
    assert not watched.watch.lanes_may_start
    assert watched.watch.why_engines_must_end is None
    assert set(watched.health().values()) == {False}


def test_a_verdict_is_told_once(watched: Watched) -> None:
    watched.changes = 0
    watched.watch.take(WELL)
    assert watched.changes == 0
    watched.watch.take(Look(error="no"))
    watched.watch.take(Look(error="no"))
    assert watched.changes == 1


def refuse() -> None:
    raise NvmlError(9, "Driver Not Loaded")


def test_a_look_that_hangs_is_told_and_holds_up_neither_loop_nor_end(monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    clock = [1000.0]
    silent = SimpleNamespace(NVMLError=NvmlError, nvmlInit=refuse)
    monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=lambda: clock[0]))

    def hang() -> Look:
        released.wait()
        return WELL

    async def run() -> str | None:
        told = asyncio.Event()
        device: Any = SimpleNamespace(nvml=silent, look=hang)
        watch = GpuWatch(device, users=GpuUsers, on_change=told.set, period_s=0.01)
        watch.take(WELL)
        told.clear()
        clock[0] += SILENT_AFTER_S + 1
        running = asyncio.create_task(watch.run())
        await asyncio.wait_for(told.wait(), 90)
        running.cancel()
        await asyncio.wait({running})
        return watch.problem

    assert asyncio.run(run()) == "GPU Degraded: NVML has not answered for 30 s"
    released.set()


def test_looks_and_xids_reach_the_loop(tmp_path: Path) -> None:
    facts = tmp_path / "nvml.json"
    facts.write_text("{}")

    async def run() -> GpuWatch:
        told = asyncio.Event()
        device = NvmlDevice(build(facts))  # type: ignore[arg-type]
        watch = GpuWatch(device, users=GpuUsers, on_change=told.set, period_s=0.01)

        async def until(state: GpuState) -> None:
            async with asyncio.timeout(90):
                while watch.verdict.state is not state:
                    await told.wait()
                    told.clear()

        running = asyncio.create_task(watch.run())
        for text, state in (
            ('{"remapPending": 1}', GpuState.DEGRADED),
            ("{}", GpuState.HEALTHY),
            ('{"xids": [250]}', GpuState.UNHEALTHY),
        ):
            facts.with_suffix(".new").write_text(text)
            facts.with_suffix(".new").rename(facts)
            await until(state)
        running.cancel()
        await asyncio.wait({running})
        return watch

    watch = asyncio.run(run())
    assert watch.xids == {("GPU-1", 250): 1}
    assert [unit.reason for unit in watch.inventory.units] == [
        "Unhealthy: GPU-1: Xid 250: an Xid that this release does not know"
    ]
