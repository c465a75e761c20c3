"""How many replicas should a service have? One pure decision per look, with its reason.

llm-d's SLO-aware rule: more above UP_PRESSURE, one less below DOWN_PRESSURE if the rest could carry the load, else hold; up fast,
down slow; pods that are there and not ready yet are credited on the way up. Bounds win at once, over everything but an owner's
wish to have none. Nothing moves on no data, and nothing while a rollout, a switch or a start is under way: their latencies
are not the fleet's.

Three rules are ours. A step up answers what the last look saw too, not a backlog that is worked off. An engine with one open
request has nothing to share: its latency is no matter of replicas. And latency grows faster than load near saturation, so that
×N/(N−1) flatters: what was too much for a pod within MEMORY_S is too much still.
Source: llm-d, guides/workload-autoscaling, SLO-aware (https://github.com/llm-d/llm-d/pull/2011).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from semipd_core.cluster.pressure import DOWN_PRESSURE, MISSED, UP_PRESSURE, PressureReading

UP_PERIOD_S, DOWN_PERIOD_S = 60.0, 120.0  # llm-d: after any change of the number
MAX_UP_FACTOR, MAX_UP_PODS = 1.0, 4  # llm-d: per period, the larger of the two
MAX_DOWN_PODS = 1
MIN_OPEN_PER_ENGINE = 1.0
MEMORY_S = 1800.0
OVERLOAD_SHARE = 0.85  # of a load per pod that was too much: what one more pod must bring it under
MIN_REPORTING_SHARE = 0.5  # of the ready engines, for a step up; a step down needs all


class ScaleReason(StrEnum):
    """Why a number of replicas is what it is; a condition's reason and an event's."""

    # moves
    BELOW_MINIMUM = "BelowMinimum"
    ABOVE_MAXIMUM = "AboveMaximum"
    PRESSURE_HIGH = "PressureHigh"
    PRESSURE_LOW = "PressureLow"
    # holds
    WITHIN_BAND = "WithinBand"
    SPLIT_FIRST = "SplitFirst"
    AT_MAXIMUM = "AtMaximum"
    AT_MINIMUM = "AtMinimum"
    NO_ROOM = "NoRoom"
    NOT_LOAD = "NotLoad"
    PERIOD = "WithinPeriod"
    CONSOLIDATION = "ConsolidationRefused"
    OVERLOADED_BEFORE = "OverloadedBefore"
    PARTIAL_DATA = "PartialData"
    NO_DATA = "NoData"
    IN_FLIGHT = "ChangeInFlight"
    DISABLED = "ScalingDisabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Inclusive; `maximum` ≥ `minimum` ≥ 1."""

    minimum: int
    maximum: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Overload:
    """A load that was too much: a step up answered it."""

    at_s: float
    tokens_per_s_per_pod: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What there is. Of pods that are neither ready nor `unschedulable`, those that start are a change `in_flight`."""

    replicas: int  # asked for
    ready: int
    unschedulable: int = 0
    engines_per_pod: int = 1
    in_flight: str | None = None  # the change under way, in words


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleInputs:
    now_s: float  # unix time
    bounds: Bounds
    fleet: Fleet
    reading: PressureReading | None
    changed_s: float | None = None  # when anybody last changed the number
    overloads: Sequence[Overload] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleDecision:
    replicas: int  # equal to what is asked for: hold
    reason: ScaleReason
    message: str  # one sentence with the numbers that decided


def decide(inputs: ScaleInputs) -> ScaleDecision:
    fleet, bounds = inputs.fleet, inputs.bounds
    if fleet.replicas == 0:
        return _hold(inputs, ScaleReason.DISABLED, "0 replicas were asked for: set 1 or more to scale again")
    if fleet.replicas < bounds.minimum:
        return _bounded(inputs, bounds.minimum, ScaleReason.BELOW_MINIMUM)
    if fleet.replicas > bounds.maximum:
        return _bounded(inputs, bounds.maximum, ScaleReason.ABOVE_MAXIMUM)
    if fleet.in_flight is not None:
        return _hold(inputs, ScaleReason.IN_FLIGHT, fleet.in_flight)
    reading = inputs.reading
    if reading is None or fleet.ready == 0:
        return _hold(inputs, ScaleReason.NO_DATA, "no pressure of this fleet at this split is known yet")
    if reading.rising > UP_PRESSURE:
        return _up(inputs, reading)
    if reading.falling < DOWN_PRESSURE and reading.observed < MISSED:
        return _down(inputs, reading)
    if reading.is_left_to_split:
        said = f"pressure {reading.observed:.2f}, of which a better split is expected to leave {reading.pressure:.2f}"
        return _hold(inputs, ScaleReason.SPLIT_FIRST, said)
    return _hold(inputs, ScaleReason.WITHIN_BAND, f"pressure {reading.pressure:.2f}")


def _up(inputs: ScaleInputs, reading: PressureReading) -> ScaleDecision:
    fleet, pressure = inputs.fleet, f"pressure {reading.rising:.2f} above {UP_PRESSURE}"
    if fleet.replicas == inputs.bounds.maximum:
        return _hold(inputs, ScaleReason.AT_MAXIMUM, pressure)
    if fleet.unschedulable:
        return _hold(inputs, ScaleReason.NO_ROOM, f"{pressure}, {fleet.unschedulable} pods find no node")
    if reading.engines < MIN_REPORTING_SHARE * fleet.ready * fleet.engines_per_pod:
        return _hold(inputs, ScaleReason.PARTIAL_DATA, f"{pressure}, {_reporting(fleet, reading)}")
    if reading.open_per_engine <= MIN_OPEN_PER_ENGINE:
        said = f"{pressure} at {reading.open_per_engine:.1f} open requests per engine: no load to share"
        return _hold(inputs, ScaleReason.NOT_LOAD, said)
    if (left_s := _left_s(inputs, UP_PERIOD_S)) > 0:
        return _hold(inputs, ScaleReason.PERIOD, f"{pressure}, {left_s:.0f} s of {UP_PERIOD_S:.0f} s left")
    # replicas · pressure · (ready / replicas): pods that are there but not ready will carry their part
    wanted = math.ceil(fleet.ready * reading.rising / UP_PRESSURE)
    step = max(math.floor(fleet.replicas * MAX_UP_FACTOR), MAX_UP_PODS)
    replicas = min(max(wanted, fleet.replicas + 1), fleet.replicas + step, inputs.bounds.maximum)
    message = f"{pressure} on {fleet.ready} of {fleet.replicas} replicas: {replicas}"
    return ScaleDecision(replicas=replicas, reason=ScaleReason.PRESSURE_HIGH, message=message)


def _down(inputs: ScaleInputs, reading: PressureReading) -> ScaleDecision:
    fleet, pressure = inputs.fleet, f"pressure {reading.falling:.2f} below {DOWN_PRESSURE}"
    replicas = fleet.replicas - MAX_DOWN_PODS
    if replicas < inputs.bounds.minimum:
        return _hold(inputs, ScaleReason.AT_MINIMUM, pressure)
    if reading.engines < fleet.ready * fleet.engines_per_pod:
        return _hold(inputs, ScaleReason.PARTIAL_DATA, f"{pressure}, {_reporting(fleet, reading)}")
    carriers = min(fleet.ready, replicas)  # a pod that never became ready goes first and takes no load along
    growth = fleet.ready / carriers if carriers else math.inf
    is_shared = reading.open_per_engine * growth > MIN_OPEN_PER_ENGINE
    if is_shared and carriers < fleet.ready and reading.falling * growth >= DOWN_PRESSURE:
        said = f"{pressure}, on {carriers} replicas it would be {reading.falling * growth:.2f}"
        return _hold(inputs, ScaleReason.CONSOLIDATION, said)
    limit = _known_overload(inputs)
    if (
        carriers < fleet.ready
        and limit is not None
        and reading.tokens_per_s / carriers > OVERLOAD_SHARE * limit
    ):
        said = (
            f"{pressure}, {reading.tokens_per_s / carriers:.0f} tokens/s per pod, {limit:.0f} were too much"
        )
        return _hold(inputs, ScaleReason.OVERLOADED_BEFORE, said)
    if (left_s := _left_s(inputs, DOWN_PERIOD_S)) > 0:
        return _hold(inputs, ScaleReason.PERIOD, f"{pressure}, {left_s:.0f} s of {DOWN_PERIOD_S:.0f} s left")
    load = f"{reading.open_per_engine * growth:.1f} open requests per engine"
    message = f"{pressure}, on {carriers} ready replicas with {load}: {replicas}"
    return ScaleDecision(replicas=replicas, reason=ScaleReason.PRESSURE_LOW, message=message)


def _bounded(inputs: ScaleInputs, replicas: int, reason: ScaleReason) -> ScaleDecision:
    bounds = inputs.bounds
    said = f"{inputs.fleet.replicas} replicas are outside {bounds.minimum}..{bounds.maximum}: {replicas}"
    return ScaleDecision(replicas=replicas, reason=reason, message=said)


def _hold(inputs: ScaleInputs, reason: ScaleReason, message: str) -> ScaleDecision:
    return ScaleDecision(replicas=inputs.fleet.replicas, reason=reason, message=message)


def _left_s(inputs: ScaleInputs, period_s: float) -> float:
    """Of the period that the last change began; a change in the future (clocks disagree) is one of now."""
    if inputs.changed_s is None:
        return 0.0
    return period_s - max(0.0, inputs.now_s - inputs.changed_s)


def _known_overload(inputs: ScaleInputs) -> float | None:
    """Tokens per second and pod; None if none is remembered."""
    recent = [
        each.tokens_per_s_per_pod
        for each in inputs.overloads
        if inputs.now_s - each.at_s < MEMORY_S and each.tokens_per_s_per_pod > 0
    ]
    return min(recent, default=None)


def _reporting(fleet: Fleet, reading: PressureReading) -> str:
    return f"{reading.engines} of {fleet.ready * fleet.engines_per_pod} engines report"
