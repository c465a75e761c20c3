"""Between the SemiPDPartition and the agent: wishes in, status out."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from semipd_agent.device.facts import DeviceUnit, Inventory
from semipd_agent.kubernetes.partition_object import build_status, to_wish
from semipd_core.agent_config import (
    AgentStatus,
    EngineStatus,
    FaultStatus,
    PartitionWire,
    ProcessStatus,
    SwitchStatus,
    WishWire,
)
from semipd_core.api import codec
from semipd_core.api.partition import PodPartitionStatus
from semipd_core.partition import Isolation

NOW, LATER = "2026-11-21T12:00:00Z", "2026-11-21T12:00:05Z"
CPU = Inventory(kind="CPU", units=[])
OLD, NEW = (PartitionWire(prefill_percent=percent, decode_percent=100) for percent in (80, 60))
WISH = WishWire(target=NEW, decision_id="cluster-7")


def engine(**changes: Any) -> EngineStatus:
    steady = EngineStatus(
        engine_id="engine-0", phase="Steady", isolation=Isolation.MPS, requested=NEW, granted=NEW, processes=[],
        kv_blocks_total=1, kv_blocks_used=0, ready=True, switch=None, error=None,
    )  # fmt: skip
    return msgspec.structs.replace(steady, **changes)


def agent(*engines: EngineStatus, **changes: Any) -> AgentStatus:
    status = AgentStatus(
        service="chat", url="http://x/v1", ready=True, draining=False, agent=ProcessStatus(role="agent", pid=5),
        shared=[], engines=list(engines), wish=WISH, decisions=[], switches=[], attainment_permille=None,
    )  # fmt: skip
    return msgspec.structs.replace(status, **changes)


def status_of(
    found: AgentStatus,
    *,
    inventory: Inventory = CPU,
    refusal: str | None = None,
    old: PodPartitionStatus | None = None,
    now: str = NOW,
    **more: Any,
) -> PodPartitionStatus:
    return build_status(
        found, inventory, generation=4, refusal=refusal, old=old or PodPartitionStatus(), now=now, **more
    )


def rolled_back() -> SwitchStatus:
    return SwitchStatus(
        decision_id="cluster-7", at_s=0.0, from_partition=OLD, to_partition=NEW, reason="TPOTMissed",
        message="late", seconds=None, outcome="RolledBack",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "switching"),
    [
        pytest.param(engine(), "False", id="granted as requested"),
        pytest.param(engine(granted=OLD), "True", id="asked for and not begun"),
        pytest.param(engine(phase="Preparing", granted=OLD), "True", id="under way"),
        pytest.param(engine(granted=None), "True", id="not read back yet"),
        pytest.param(
            engine(granted=OLD, switch=rolled_back()), "False", id="given up: requested and granted differ"
        ),
    ],
)
def test_a_switch_under_way_is_a_condition(found: EngineStatus, switching: str) -> None:
    [reported] = status_of(agent(found)).engines
    conditions = {condition.type: condition.status.value for condition in reported.conditions}
    assert conditions["Switching"] == switching


def test_what_is_reported() -> None:
    status = status_of(agent(engine(granted=OLD)))
    assert (status.observed_generation, status.observed_decision_id) == (4, "cluster-7")
    [reported] = status.engines
    assert reported.requested.prefill_percent == 60
    assert reported.granted is not None
    assert reported.granted.prefill_percent == 80
    assert codec.encode(status)["engines"][0]["name"] == "engine-0"


def test_problems_are_said_until_they_are_over() -> None:
    first = status_of(
        agent(engine(), problems=["journal.jsonl: No space left on device"]), refusal="the service drains"
    )
    [degraded] = first.conditions
    assert degraded.status.value == "True"
    assert degraded.message == "the service drains; journal.jsonl: No space left on device"
    [over] = status_of(agent(engine()), old=first, now=LATER).conditions
    assert (over.status.value, over.last_transition_time) == ("False", LATER)


def test_the_gravest_fault_is_the_reason_and_each_thing_is_said_once() -> None:
    found = agent(
        engine(),
        faults=[
            FaultStatus(reason="GpuLost", message="GPU-1: Xid 79"),
            FaultStatus(reason="TooLittleMemory", message="engine-0: kvCache: got 9"),
        ],
        problems=["GPU Lost: GPU-1: Xid 79", "disk full"],
    )
    [degraded] = status_of(found).conditions
    assert (degraded.status.value, degraded.reason) == ("True", "GpuLost")
    assert degraded.message == "GPU Lost: GPU-1: Xid 79; engine-0: kvCache: got 9; disk full"


def test_equal_findings_give_an_equal_status() -> None:
    first = status_of(agent(engine()))
    assert status_of(agent(engine()), old=first, now=LATER) == first


def gpu(uuid: str, reason: str = "") -> DeviceUnit:
    return DeviceUnit(
        uuid=uuid, name="H200", num_cores=132, memory_bytes=1, percent_step=2, healthy=not reason, reason=reason
    )  # fmt: skip


def test_an_unhealthy_gpu_is_named_with_its_reason() -> None:
    ill = Inventory(kind="CUDA", units=[gpu("GPU-1", "Xid 79")])
    [reported] = status_of(agent(engine()), inventory=ill).engines
    assert [(gpu.uuid, gpu.health.value, gpu.message) for gpu in reported.gpus] == [
        ("GPU-1", "Unhealthy", "Xid 79")
    ]


@pytest.mark.parametrize(
    ("gpus", "reported"),
    [
        pytest.param(
            {"engine-0": ["GPU-2"], "engine-1": ["GPU-1", "GPU-3"]},
            [["GPU-2"], ["GPU-1", "GPU-3"]],
            id="its own, of all its ranks",
        ),
        pytest.param(
            {"engine-0": [], "engine-1": []}, [["GPU-1", "GPU-2", "GPU-3"]] * 2, id="all where it may be any"
        ),
    ],
)
def test_the_gpus_of_an_engine(gpus: dict[str, list[str]], reported: list[list[str]]) -> None:
    found = agent(engine(), engine(engine_id="engine-1"))
    inventory = Inventory(kind="CUDA", units=[gpu(f"GPU-{number}") for number in (1, 2, 3)])
    engines = status_of(found, inventory=inventory, gpus=gpus).engines
    assert [[gpu.uuid for gpu in each.gpus] for each in engines] == reported


def test_a_spec_is_a_wish_and_never_a_pin() -> None:
    spec = codec.decode_partition(
        {
            "apiVersion": "semipd.io/v1alpha1",
            "kind": "SemiPDPartition",
            "metadata": {"name": "chat-1"},
            "spec": {
                "target": {"prefillPercent": 60, "decodePercent": 100},
                "band": {
                    "prefillMinPercent": 45,
                    "prefillMaxPercent": 75,
                    "decodeMinPercent": 85,
                    "decodeMaxPercent": 100,
                },
                "decisionID": "cluster-7",
                "reason": "TPOTMissed",
                "message": "m",
            },
        }
    ).spec
    wish = to_wish(spec)
    assert (wish.target, wish.decision_id, wish.reason, wish.pinned) == (
        NEW,
        "cluster-7",
        "TPOTMissed",
        False,
    )
    assert wish.band is not None
    assert (wish.band.prefill_min_percent, wish.band.decode_max_percent) == (45, 100)
