"""The agent's small pure parts: cores, back-off, identities, adoption, decisions, devices."""

from __future__ import annotations

import os
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_agent.adoption import Adoption, plan_adoption
from semipd_agent.configure import split_cpus
from semipd_agent.decisions import DecisionLog
from semipd_agent.device.inventory import open_device
from semipd_agent.device.nvml import NvmlDevice
from semipd_agent.journal.entries import Started, Starting
from semipd_agent.journal.recovery import JournalledProcess
from semipd_agent.processes.backoff import MAX_DELAY_S, Backoff
from semipd_agent.processes.identity import Identity, ProcessFacts, is_alive, read_identity
from semipd_core.agent_config import DecisionStatus, PartitionWire
from semipd_core.errors import DeviceError, InvalidSpec


@given(st.sets(st.integers(0, 63), min_size=1), st.integers(1, 16))
def test_cores_are_shared_out_evenly_and_disjointly_while_they_last(cores: set[int], engines: int) -> None:
    parts = split_cpus(sorted(cores), engines)
    assert len(parts) == engines
    assert all(parts)
    if engines <= len(cores):
        assert sorted(core for part in parts for core in part) == sorted(cores)
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    else:
        assert {core for part in parts for core in part} == cores


def test_the_first_restart_is_at_once_and_the_next_ones_slower_up_to_a_limit() -> None:
    backoff, delays = Backoff(), []
    for _ in range(10):
        backoff = backoff.started(100.0).died(100.0)
        delays.append(backoff.not_before_s - 100.0)
    assert delays[:4] == [0.0, 0.25, 0.5, 1.0]
    assert delays[-1] == MAX_DELAY_S


def test_a_process_that_lived_long_is_restarted_at_once_again() -> None:
    backoff = Backoff(failures=5).started(0.0).died(100.0)
    assert (backoff.failures, backoff.is_due(100.0)) == (1, True)


def test_a_process_is_known_by_its_start_and_not_by_its_pid() -> None:
    me = read_identity(os.getpid())
    assert me is not None
    assert is_alive(me)
    assert not is_alive(Identity(pid=me.pid, start_ticks=me.start_ticks + 1, boot_id=me.boot_id))
    assert not is_alive(Identity(pid=me.pid, start_ticks=me.start_ticks, boot_id="another boot"))


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert read_identity(child.pid) is None
    child.wait()


def facts(pid: int, *arguments: str, start_ticks: int = 1, group: int = 0) -> ProcessFacts:
    identity = Identity(pid=pid, start_ticks=start_ticks, boot_id="boot")
    return ProcessFacts(identity=identity, arguments=arguments, group=group)


def journalled(name: str, pid: int | None) -> dict[str, JournalledProcess]:
    started = None if pid is None else Started(process=name, pid=pid, start_ticks=1, boot_id="boot")
    return {name: JournalledProcess(starting=Starting(process=name), started=started)}


MEMORY = facts(7, "memory")


@pytest.mark.parametrize(
    ("processes", "found", "expected"),
    [
        pytest.param({}, [], Adoption(), id="nothing from nothing"),
        pytest.param(
            journalled("memory", 7),
            [MEMORY],
            Adoption(alive={"memory": MEMORY.identity}),
            id="what is journalled and lives is adopted",
        ),
        pytest.param(
            journalled("memory", 7),
            [],
            Adoption(gone=("memory",)),
            id="what is journalled and does not is gone",
        ),
        pytest.param(
            journalled("memory", 7),
            [facts(7, "other", start_ticks=2)],
            Adoption(gone=("memory",), strays=(facts(7, start_ticks=2).identity,)),
            id="a reused pid is somebody else",
        ),
        pytest.param(
            journalled("memory", None),
            [MEMORY],
            Adoption(alive={"memory": MEMORY.identity}),
            id="a start without a pid is known by its command line",
        ),
        pytest.param(
            journalled("memory", None),
            [MEMORY, facts(8, "memory")],
            Adoption(gone=("memory",), strays=(MEMORY.identity, facts(8).identity)),
            id="unless two have it",
        ),
        pytest.param(
            journalled("lane", None),
            [MEMORY],
            Adoption(gone=("lane",), strays=(MEMORY.identity,)),
            id="a lane has no command line of its own",
        ),
        pytest.param(
            journalled("lane", 7),
            [facts(7, "zygote", group=7), facts(8, "zygote", group=7)],
            Adoption(alive={"lane": facts(7).identity}),
            id="a process in a living lane's group is the lane's",
        ),
        pytest.param(
            journalled("lane", 7),
            [facts(8, "zygote", group=7)],
            Adoption(gone=("lane",), strays=(facts(8).identity,)),
            id="what a dead lane leaves behind is a stray",
        ),
        pytest.param(
            journalled("zygote", 7),
            [facts(7, "zygote", group=7), facts(8, "zygote", group=7)],
            Adoption(alive={"zygote": facts(7).identity}, strays=(facts(8).identity,)),
            id="a lane in the zygote's group is not the zygote's",
        ),
        pytest.param(
            {}, [MEMORY], Adoption(strays=(MEMORY.identity,)), id="what nobody accounts for is a stray"
        ),
    ],
)
def test_adoption(
    processes: dict[str, JournalledProcess], found: list[ProcessFacts], expected: Adoption
) -> None:
    assert plan_adoption(processes, found, lambda name: None if name == "lane" else (name,)) == expected


def decision(reason: str, *, changed: bool = False, loop: str = "node") -> DecisionStatus:
    partition = PartitionWire(prefill_percent=80, decode_percent=100)
    return DecisionStatus(
        at_s=1.0,
        loop=loop,
        engine_id="engine-0",
        partition=partition,
        changed=changed,
        reason=reason,
        message="",
    )


def test_decisions_are_newest_first_and_repetitions_are_left_out() -> None:
    log = DecisionLog()
    for item in [
        decision("Idle"),
        decision("Idle"),
        decision("SLOMet"),
        decision("Wish", loop="cluster"),
        decision("SLOMet"),
    ]:
        log.add(item)
    assert [item.reason for item in log.newest()] == ["Wish", "SLOMet", "Idle"]


def test_every_change_is_kept_up_to_ten() -> None:
    log = DecisionLog()
    for _ in range(12):
        log.add(decision("TPOTMissed", changed=True))
    assert len(log.newest()) == 10


def test_the_cpu_is_its_cores_and_memory() -> None:
    inventory = open_device("CPU").inventory()
    assert inventory.is_healthy
    assert inventory.units[0].num_cores == len(os.sched_getaffinity(0))
    assert inventory.units[0].legal_percents == list(range(1, 101))


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="device: got 'TPU', allowed: CPU or CUDA"):
        open_device("TPU")


class NvmlError(Exception):
    pass


def fake_nvml(**changes: object) -> ModuleType:
    """The few functions of pynvml that are used, for one H200."""
    functions: dict[str, object] = {
        "NVMLError": NvmlError,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_VOLATILE_ECC": 0,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetCudaComputeCapability": lambda _handle: (9, 0),
        "nvmlDeviceGetNumGpuCores": lambda _handle: 132 * 128,
        "nvmlDeviceGetUUID": lambda _handle: "GPU-1",
        "nvmlDeviceGetName": lambda _handle: "NVIDIA H200",
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(total=139 << 30),
        "nvmlDeviceGetTotalEccErrors": lambda *_arguments: 0,
    }
    return SimpleNamespace(**{**functions, **changes})  # type: ignore[return-value]


def test_a_gpu_by_nvml() -> None:
    (unit,) = NvmlDevice(fake_nvml()).inventory().units
    assert (unit.name, unit.num_cores, unit.percent_step, unit.healthy) == ("NVIDIA H200", 132, 7, True)
    assert unit.legal_percents[0] * 132 // 100 >= 8  # eight SMs are the least step of a green context


def test_memory_errors_make_a_gpu_unhealthy() -> None:
    (unit,) = NvmlDevice(fake_nvml(nvmlDeviceGetTotalEccErrors=lambda *_arguments: 2)).inventory().units
    assert (unit.healthy, unit.reason) == (False, "2 uncorrected memory errors")


def _raise(*_arguments: object) -> None:
    raise NvmlError("Driver Not Loaded")


def test_a_card_that_does_not_count_errors_or_cores_is_healthy() -> None:
    changes = {"nvmlDeviceGetTotalEccErrors": _raise, "nvmlDeviceGetNumGpuCores": _raise}
    (unit,) = NvmlDevice(fake_nvml(**changes)).inventory().units
    assert (unit.healthy, unit.num_cores) == (True, None)


def test_a_missing_driver_is_said() -> None:
    with pytest.raises(
        DeviceError, match="NVML does not start: Driver Not Loaded; is the NVIDIA driver installed"
    ):
        NvmlDevice(fake_nvml(nvmlInit=_raise)).inventory()
