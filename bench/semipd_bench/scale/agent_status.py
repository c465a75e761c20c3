"""What a simulated agent writes into its SemiPDPartition, and when: the form that real agents give it. Pure."""

from __future__ import annotations

from dataclasses import replace

from semipd_agent.device.facts import DeviceUnit, Inventory
from semipd_agent.kubernetes.partition_object import build_status
from semipd_core.agent_config import AgentStatus, EngineStatus, PartitionWire, ProcessStatus, WishWire
from semipd_core.api.partition import PodPartitionStatus
from semipd_core.partition import Isolation
from semipd_core.repartition import Phase

_AGENT = ProcessStatus(role="agent", pid=1)


def status_of(
    name: str,
    wish: WishWire,
    granted: PartitionWire,
    *,
    generation: int,
    old: PodPartitionStatus,
    now: str,
) -> PodPartitionStatus:
    """The agent of pod `name` has taken `wish`; its one engine is switching while `granted` is another split."""
    engine = EngineStatus(
        engine_id="engine-0",
        phase=Phase.STEADY if granted == wish.target else Phase.PREPARING,
        isolation=Isolation.MPS,
        requested=wish.target,
        granted=granted,
        processes=[],
        kv_blocks_total=20_000,
        kv_blocks_used=800,
        ready=True,
    )
    agent = AgentStatus(
        service=name,
        url="",
        ready=True,
        draining=False,
        agent=_AGENT,
        shared=[],
        engines=[engine],
        wish=wish,
        decisions=[],
        switches=[],
        attainment_permille=None,
    )
    status = build_status(agent, _gpu_of(name), generation=generation, refusal=None, old=old, now=now)
    return replace(status, last_heartbeat_time=now)


def _gpu_of(name: str) -> Inventory:
    unit = DeviceUnit(
        uuid=f"GPU-{name}",
        name="NVIDIA H200",
        num_cores=132,
        memory_bytes=141 * 10**9,
        percent_step=1,
        healthy=True,
    )
    return Inventory(kind="CUDA", units=[unit])
