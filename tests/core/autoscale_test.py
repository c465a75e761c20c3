"""The number of replicas: each rule by a table, and what holds for every input and over time."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semipd_core.cluster.autoscale import (
    DOWN_PERIOD_S,
    MAX_UP_PODS,
    MEMORY_S,
    UP_PERIOD_S,
    Bounds,
    Fleet,
    Overload,
    ScaleInputs,
    ScaleReason,
    decide,
)
from semipd_core.cluster.pressure import CLAMP, DOWN_PRESSURE, UP_PRESSURE, PressureReading

NOW_S = 1_000_000.0


def reading(pressure=0.5, *, latest=None, observed=None, open_per_engine=8.0, engines=4, tokens_per_s=400.0):
    return PressureReading(
        pressure=pressure,
        latest=pressure if latest is None else latest,
        observed=pressure if observed is None else observed,
        open_per_engine=open_per_engine,
        engines=engines,
        tokens_per_s=tokens_per_s,
    )


def fleet(replicas=4, ready=None, **changes):
    return Fleet(replicas=replicas, ready=replicas if ready is None else ready, **changes)


def inputs(**changes):
    """Four of 1..16 replicas, changed long ago, at a pressure within the band."""
    usual = ScaleInputs(
        now_s=NOW_S,
        bounds=Bounds(minimum=1, maximum=16),
        fleet=fleet(),
        reading=reading(),
        changed_s=NOW_S - 10_000,
    )
    return replace(usual, **changes)


@pytest.mark.parametrize(
    ("changes", "replicas", "reason"),
    [
        pytest.param({}, 4, "WithinBand", id="within the band the number stays"),
        pytest.param({"reading": reading(0.551)}, 5, "PressureHigh", id="just above the band: one more"),
        pytest.param({"reading": reading(0.9)}, 7, "PressureHigh", id="in proportion to the pressure"),
        pytest.param({"reading": reading(2.0)}, 8, "PressureHigh", id="at most double, or four more"),
        pytest.param(
            {"reading": reading(2.0, engines=1), "fleet": fleet(1)},
            4,
            "PressureHigh",
            id="from one to four at once",
        ),
        pytest.param(
            {"reading": reading(2.0, engines=8), "fleet": fleet(8), "bounds": Bounds(minimum=1, maximum=10)},
            10,
            "PressureHigh",
            id="never above the maximum",
        ),
        pytest.param(
            {"reading": reading(0.9, engines=3), "fleet": fleet(4, ready=3)},
            5,
            "PressureHigh",
            id="a pod that crashes is credited: it will carry its part again",
        ),
        pytest.param(
            {"reading": reading(2.0), "bounds": Bounds(minimum=1, maximum=4)},
            4,
            "AtMaximum",
            id="at the maximum",
        ),
        pytest.param(
            {"reading": reading(2.0), "fleet": fleet(4, ready=3, unschedulable=1)},
            4,
            "NoRoom",
            id="a pod waits for a node already: another would wait too",
        ),
        pytest.param(
            {"reading": reading(2.0, open_per_engine=1.0)},
            4,
            "NotLoad",
            id="one request per engine is no load that replicas could share",
        ),
        pytest.param({"reading": reading(2.0, engines=1)}, 4, "PartialData", id="one engine speaks for one"),
        pytest.param(
            {"reading": reading(0.45, observed=0.9)},
            4,
            "SplitFirst",
            id="what a split can do, replicas need not",
        ),
        pytest.param(
            {"reading": reading(0.9, latest=0.3)},
            4,
            "WithinBand",
            id="a backlog that is worked off asks for nobody",
        ),
        pytest.param(
            {"reading": reading(0.2, latest=0.5)}, 4, "WithinBand", id="what has just begun keeps everybody"
        ),
        pytest.param({"reading": reading(0.2)}, 3, "PressureLow", id="one less, if the rest can carry it"),
        pytest.param(
            {"reading": reading(0.2, observed=0.9)},
            3,
            "PressureLow",
            id="the split has room for one replica less",
        ),
        pytest.param(
            {"reading": reading(0.2, observed=1.1)}, 4, "SplitFirst", id="but not while the SLO is missed"
        ),
        pytest.param(
            {"reading": reading(0.39, open_per_engine=0.7)},
            3,
            "PressureLow",
            id="one request per engine is as slow on fewer engines",
        ),
        pytest.param(
            {"reading": reading(0.0, open_per_engine=0.0)}, 3, "PressureLow", id="idle is data: one less"
        ),
        pytest.param({"reading": reading(0.35)}, 4, "ConsolidationRefused", id="the rest could not carry it"),
        pytest.param(
            {"reading": reading(0.1), "bounds": Bounds(minimum=4, maximum=8)},
            4,
            "AtMinimum",
            id="at the minimum",
        ),
        pytest.param(
            {"reading": reading(0.1, engines=3)}, 4, "PartialData", id="a silent engine may be a busy one"
        ),
        pytest.param(
            {"reading": reading(0.3, engines=3), "fleet": fleet(4, ready=3, unschedulable=1)},
            3,
            "PressureLow",
            id="a pod that finds no node takes no load along",
        ),
        pytest.param(
            {"reading": reading(0.1), "overloads": [Overload(at_s=NOW_S - 60, tokens_per_s_per_pod=130)]},
            4,
            "OverloadedBefore",
            id="133 tokens/s per pod were too much a minute ago",
        ),
        pytest.param(
            {
                "reading": reading(0.1),
                "overloads": [Overload(at_s=NOW_S - MEMORY_S, tokens_per_s_per_pod=130)],
            },
            3,
            "PressureLow",
            id="what was too much long ago is forgotten",
        ),
        pytest.param({"reading": None}, 4, "NoData", id="no data is not low pressure"),
        pytest.param(
            {"reading": reading(2.0), "fleet": fleet(4, ready=0)}, 4, "NoData", id="nothing is ready"
        ),
        pytest.param(
            {"reading": reading(2.0), "changed_s": NOW_S - UP_PERIOD_S + 1},
            4,
            "WithinPeriod",
            id="too soon up",
        ),
        pytest.param(
            {"reading": reading(0.1), "changed_s": NOW_S - UP_PERIOD_S - 1},
            4,
            "WithinPeriod",
            id="too soon down",
        ),
        pytest.param(
            {"reading": reading(2.0), "changed_s": NOW_S + 30}, 4, "WithinPeriod", id="a clock ahead of ours"
        ),
        pytest.param(
            {"reading": reading(2.0), "fleet": fleet(in_flight="a rollout")},
            4,
            "ChangeInFlight",
            id="a rollout",
        ),
        pytest.param(
            {"bounds": Bounds(minimum=6, maximum=8), "reading": None, "fleet": fleet(in_flight="a rollout")},
            6,
            "BelowMinimum",
            id="the minimum wins at once, also without data and in a rollout",
        ),
        pytest.param(
            {"bounds": Bounds(minimum=1, maximum=2), "changed_s": NOW_S, "reading": reading(2.0)},
            2,
            "AboveMaximum",
            id="the maximum wins at once, also under pressure",
        ),
        pytest.param({"fleet": fleet(0)}, 0, "ScalingDisabled", id="0 replicas were asked for by somebody"),
    ],
)
def test_a_decision_and_its_reason(changes, replicas, reason):
    decision = decide(inputs(**changes))
    assert (decision.replicas, decision.reason) == (replicas, reason)


@st.composite
def any_inputs(draw):
    minimum = draw(st.integers(1, 20))
    replicas = draw(st.integers(0, 60))
    ready = draw(st.integers(0, replicas))
    known = st.builds(
        reading,
        st.floats(0, CLAMP),
        latest=st.none() | st.floats(0, CLAMP),
        observed=st.none() | st.floats(0, CLAMP),
        open_per_engine=st.floats(0, 300),
        engines=st.integers(0, 60),
        tokens_per_s=st.floats(0, 1e6),
    )
    return inputs(
        bounds=Bounds(minimum=minimum, maximum=minimum + draw(st.integers(0, 30))),
        fleet=fleet(
            replicas,
            ready,
            unschedulable=draw(st.integers(0, replicas - ready)),
            in_flight=draw(st.none() | st.just("a rollout")),
        ),
        reading=draw(st.none() | known),
        changed_s=draw(st.none() | st.floats(NOW_S - 1000, NOW_S + 10)),
        overloads=draw(
            st.lists(
                st.builds(
                    Overload, at_s=st.floats(NOW_S - 5000, NOW_S), tokens_per_s_per_pod=st.floats(0, 1e5)
                ),
                max_size=3,
            )
        ),
    )


@given(any_inputs())
def test_nothing_is_asked_for_outside_the_bounds(given_):
    replicas = decide(given_).replicas
    assert (
        given_.bounds.minimum <= replicas <= given_.bounds.maximum or replicas == given_.fleet.replicas == 0
    )


@given(any_inputs())
def test_inside_the_bounds_only_a_pressure_of_a_settled_fleet_moves_anything(given_):
    inside = given_.bounds.minimum <= given_.fleet.replicas <= given_.bounds.maximum
    moved = decide(given_).replicas - given_.fleet.replicas
    if not inside or moved == 0:
        return
    assert given_.reading is not None
    assert given_.fleet.in_flight is None
    if moved > 0:
        assert given_.reading.rising > UP_PRESSURE
        assert moved <= max(given_.fleet.replicas, MAX_UP_PODS)
        assert given_.changed_s is None or given_.now_s - given_.changed_s >= UP_PERIOD_S
    else:
        assert given_.reading.falling < DOWN_PRESSURE
        assert moved == -1
        assert given_.changed_s is None or given_.now_s - given_.changed_s >= DOWN_PERIOD_S


@given(any_inputs(), st.floats(0, CLAMP))
def test_more_pressure_never_asks_for_fewer_replicas(given_, less):
    if given_.reading is None:
        return
    high = replace(given_, reading=replace(given_.reading, observed=given_.reading.pressure))
    low = replace(
        high, reading=replace(high.reading, pressure=min(less, high.reading.pressure), observed=0.0)
    )
    assert decide(low).replicas <= decide(high).replicas


class Service:
    """Pods that share a load as M/M/1 queues; a new one is ready after `start_s`."""

    def __init__(self, load_tokens_per_s, pod_tokens_per_s, floor, start_s=60.0, replicas=1) -> None:
        self.load, self.capacity, self.floor, self.start_s = (
            load_tokens_per_s,
            pod_tokens_per_s,
            floor,
            start_s,
        )
        self.replicas = self.ready = replicas
        self.changed_s = -1e9
        self.overloads: list[Overload] = []
        self.moves: list[tuple[float, int]] = []

    def look(self, now_s: float) -> None:
        is_starting = self.ready < self.replicas and now_s - self.changed_s < self.start_s
        if not is_starting:
            self.ready = self.replicas
        utilisation = self.load / (self.ready * self.capacity)
        pressure = self.floor / (1 - utilisation) if utilisation < 1 else CLAMP
        decision = decide(
            ScaleInputs(
                now_s=now_s,
                bounds=Bounds(minimum=1, maximum=64),
                fleet=Fleet(
                    replicas=self.replicas, ready=self.ready, in_flight="pods start" if is_starting else None
                ),
                reading=reading(min(pressure, CLAMP), engines=self.ready, tokens_per_s=self.load),
                changed_s=self.changed_s,
                overloads=self.overloads,
            )
        )
        if decision.replicas == self.replicas:
            return
        if decision.reason is ScaleReason.PRESSURE_HIGH:
            self.overloads.append(Overload(at_s=now_s, tokens_per_s_per_pod=self.load / self.ready))
        self.ready = min(self.ready, decision.replicas)
        self.replicas, self.changed_s = decision.replicas, now_s
        self.moves.append((now_s, decision.replicas))


@settings(deadline=None)
@given(
    load=st.floats(10, 2000),
    capacity=st.floats(100, 1000),
    floor=st.floats(0.02, 0.5),
    replicas=st.integers(1, 30),
)
def test_a_constant_load_finds_its_number_and_keeps_it(load, capacity, floor, replicas):
    """It may overshoot on the way up and try one replica too few on the way down, once; and again when that is forgotten."""
    service = Service(load, capacity, floor, replicas=replicas)
    for now_s in range(0, 7200, 15):
        service.look(float(now_s))
    times = [at_s for at_s, _ in service.moves]
    assert all(after - before >= UP_PERIOD_S for before, after in itertools.pairwise(times))
    numbers = [replicas, *(number for _, number in service.moves)]
    turns = [
        at_s
        for at_s, before, now, after in zip(times[1:], numbers, numbers[1:], numbers[2:], strict=False)
        if (now - before) * (after - now) < 0
    ]
    assert len(turns) <= 3 + 2 * (7200 // MEMORY_S), service.moves


def test_a_load_that_rises_and_falls_is_followed_up_fast_and_down_slowly():
    service = Service(50, 300, 0.1)
    seen = {}
    for now_s in range(0, 14_400, 15):
        service.load = 2000 if 600 <= now_s < 3600 else 50
        service.look(float(now_s))
        seen[now_s] = service.ready
    assert seen[585] == 1
    assert seen[3585] >= 7, "2000 tokens/s need seven pods of 300"
    ups = [at_s for at_s, _ in service.moves if at_s < 3600]
    downs = [at_s for at_s, _ in service.moves if at_s >= 3600]
    assert ups[-1] - ups[0] < 600
    assert all(after - before >= DOWN_PERIOD_S for before, after in itertools.pairwise(downs))
    assert seen[14_385] == 1
