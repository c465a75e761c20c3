"""Between the SemiPDPartition and what the agent knows: pure, both ways."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from semipd_agent.device.facts import Inventory
from semipd_core.agent_config import AS_ASKED, AgentStatus, BandWire, EngineStatus, PartitionWire, WishWire
from semipd_core.api import codec
from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, set_condition
from semipd_core.api.fields import PartitionSplit
from semipd_core.api.partition import (
    EnginePartitionStatus,
    GpuHealth,
    GpuStatus,
    PodIsolation,
    PodPartitionSpec,
    PodPartitionStatus,
)
from semipd_core.errors import InvalidSpec
from semipd_core.repartition import Phase
from semipd_core.service_settings import slo_targets

CPU = "CPU"
MAX_MESSAGE = 1024
NOT_KNOWN: Mapping[str, Collection[str]] = MappingProxyType({})


def read_status(found: object) -> PodPartitionStatus:
    """Of a partition as an API server gives it; that of a new one where it cannot be read."""
    try:
        return codec.read_partition(found).status or PodPartitionStatus()
    except InvalidSpec:
        return PodPartitionStatus()


def to_wish(spec: PodPartitionSpec) -> WishWire:
    """Never pinned: the object is what counts, also when it changes again. A band of one split leaves no room either."""
    band = spec.band
    return WishWire(
        target=PartitionWire(
            prefill_percent=spec.target.prefill_percent, decode_percent=spec.target.decode_percent
        ),
        band=None
        if band is None
        else BandWire(
            prefill_min_percent=band.prefill_min_percent,
            prefill_max_percent=band.prefill_max_percent,
            decode_min_percent=band.decode_min_percent,
            decode_max_percent=band.decode_max_percent,
        ),
        decision_id=spec.decision_id,
        reason=spec.reason,
        message=spec.message,
        slo=None if spec.slo is None else slo_targets(spec.slo),
        policy=None if spec.policy is None else spec.policy.value,
    )


def build_status(
    agent: AgentStatus,
    inventory: Inventory,
    *,
    generation: int | None,
    refusal: str | None,
    old: PodPartitionStatus,
    now: str,
    gpus: Mapping[str, Collection[str]] = NOT_KNOWN,
) -> PodPartitionStatus:
    """`generation`: of the spec taken last. `refusal`: why the last spec was not taken. `now`: RFC 3339.

    `gpus`: UUIDs by engine; empty, or none for an engine: it may be any of the inventory's.
    """
    engines = tuple(
        _engine(
            engine,
            _gpus(inventory, gpus.get(engine.engine_id, ())),
            _conditions(old, engine.engine_id),
            now,
        )
        for engine in agent.engines
    )
    return PodPartitionStatus(
        observed_generation=generation,
        observed_decision_id=agent.wish.decision_id if agent.wish is not None else None,
        last_heartbeat_time=old.last_heartbeat_time,
        isolation=_isolation(agent),
        engines=engines,
        conditions=_taken(agent, refusal, old.conditions, now),
    )


def _isolation(agent: AgentStatus) -> PodIsolation | None:
    if (found := agent.isolation) is None or found.reason == AS_ASKED:
        return None
    return PodIsolation(chosen=found.isolation, reason=found.reason, message=found.message[:MAX_MESSAGE])


def _engine(
    engine: EngineStatus, gpus: tuple[GpuStatus, ...], old: Sequence[Condition], now: str
) -> EnginePartitionStatus:
    is_steady = engine.phase == Phase.STEADY and engine.granted == engine.requested
    status = ConditionStatus.FALSE if is_steady or _has_given_up(engine) else ConditionStatus.TRUE
    switching = Condition(type=ConditionType.SWITCHING, status=status, reason=engine.phase, message="")
    ready = Condition(
        type=ConditionType.READY,
        status=ConditionStatus.TRUE if engine.ready else ConditionStatus.FALSE,
        reason="Serving" if engine.ready else "NotServing",
        message=engine.error or "",
    )
    conditions = tuple(old)
    for condition in (ready, switching):
        conditions = set_condition(conditions, condition, now)
    return EnginePartitionStatus(
        name=engine.engine_id,
        requested=_split(engine.requested),
        granted=_split(engine.granted) if engine.granted is not None else None,
        gpus=gpus,
        conditions=conditions,
    )


def _has_given_up(engine: EngineStatus) -> bool:
    """A switch that was rolled back leaves the old share granted: that is no switch under way."""
    switch = engine.switch
    return engine.phase == Phase.STEADY and switch is not None and switch.outcome == "RolledBack"


def _taken(
    agent: AgentStatus, refusal: str | None, old: Sequence[Condition], now: str
) -> tuple[Condition, ...]:
    problems = _gravest_first(agent, refusal)
    reason = agent.faults[0].reason if agent.faults else "Problems"
    condition = Condition(
        type=ConditionType.DEGRADED,
        status=ConditionStatus.TRUE if problems else ConditionStatus.FALSE,
        reason=reason if problems else "Healthy",
        message="; ".join(problems)[:MAX_MESSAGE],
    )
    return set_condition(tuple(old), condition, now)


def _gravest_first(agent: AgentStatus, refusal: str | None) -> list[str]:
    """Faults in their order, in the words of the problem that tells of them if there is one; then what else there is."""
    problems = [problem for problem in (refusal, *agent.problems) if problem]
    faults = [
        next((problem for problem in problems if fault.message in problem), fault.message)
        for fault in agent.faults
    ]
    return [*faults, *(problem for problem in problems if problem not in faults)]


def _conditions(old: PodPartitionStatus, engine_id: str) -> Sequence[Condition]:
    return next((engine.conditions for engine in old.engines if engine.name == engine_id), ())


def _gpus(inventory: Inventory, own: Collection[str]) -> tuple[GpuStatus, ...]:
    if inventory.kind == CPU:
        return ()
    return tuple(
        GpuStatus(
            uuid=unit.uuid,
            health=GpuHealth.HEALTHY if unit.healthy else GpuHealth.UNHEALTHY,
            message=unit.reason,
        )
        for unit in inventory.units
        if unit.uuid in own or not own
    )


def _split(wire: PartitionWire) -> PartitionSplit:
    return PartitionSplit(prefill_percent=wire.prefill_percent, decode_percent=wire.decode_percent)
