"""What follows from Xids and from what NVML says: one state, one reaction each."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_agent.device import health, xid
from semipd_agent.device.facts import DeviceUnit
from semipd_agent.device.health import GpuState, GpuView, Mark
from semipd_agent.device.reading import GpuReading
from semipd_agent.device.xid import ECHO_S, KNOWN_XIDS, ReactionKind

REACTIONS = {
    13: ReactionKind.RECORD,
    31: ReactionKind.RESTART_LANES,
    43: ReactionKind.RESTART_LANES,
    45: ReactionKind.RESTART_LANES,
    46: ReactionKind.RESET,
    48: ReactionKind.RESET,
    62: ReactionKind.RESET,
    63: ReactionKind.RECORD,
    64: ReactionKind.RESET,
    68: ReactionKind.RECORD,
    79: ReactionKind.LOST,
    92: ReactionKind.RECORD,
    94: ReactionKind.RESTART_ENGINE,
    95: ReactionKind.RESET,
    109: ReactionKind.RECORD,
    119: ReactionKind.RESET,
    120: ReactionKind.RESET,
    154: ReactionKind.RECORD,
}


@pytest.mark.parametrize(("number", "kind"), REACTIONS.items())
def test_each_xid_has_its_reaction_and_a_reason_that_names_it(number: int, kind: ReactionKind) -> None:
    reaction = xid.decide(number)
    assert reaction.kind is kind
    assert reaction.reason.startswith(f"Xid {number}: ")


def test_the_table_above_is_all_that_is_known() -> None:
    assert set(KNOWN_XIDS) == set(REACTIONS)


@given(st.integers(0, 2**32).filter(lambda number: number not in KNOWN_XIDS))
def test_an_xid_that_is_not_known_keeps_new_requests_away(number: int) -> None:
    assert xid.decide(number).kind is ReactionKind.CORDON


@given(st.sampled_from(KNOWN_XIDS), st.floats(0, 3600))
def test_only_what_a_forced_end_explains_is_an_echo(number: int, since_s: float) -> None:
    plain, later = xid.decide(number), xid.decide(number, since_forced_end_s=since_s)
    is_echo = plain.kind is ReactionKind.RESTART_LANES and since_s < ECHO_S
    assert later.kind is (ReactionKind.RECORD if is_echo else plain.kind)


UNIT = DeviceUnit(
    uuid="GPU-1", name="H200", num_cores=132, memory_bytes=139 << 30, percent_step=7, healthy=True
)
READING = GpuReading(uuid="GPU-1", name="H200")
WELL = GpuView(units=(UNIT,), readings=(READING,), now_s=1000.0)


def mark(kind: ReactionKind, *, uuid: str = "GPU-1", at_s: float = 990.0) -> Mark:
    return Mark(uuid=uuid, kind=kind, reason="Xid 1: a fault", at_s=at_s)


def reading(**changes: object) -> tuple[GpuReading, ...]:
    return (GpuReading(uuid="GPU-1", name="H200", **changes),)  # type: ignore[arg-type]


ILL = DeviceUnit(
    uuid="GPU-1", name="H200", num_cores=132, memory_bytes=1, percent_step=7, healthy=False, reason="2 errors"
)
STATES = [
    pytest.param(WELL, GpuState.HEALTHY, "GPUs that answer: 1", id="a GPU that answers"),
    pytest.param(
        replace(WELL, error="Driver Not Loaded"), GpuState.NO_DRIVER, "Driver Not Loaded", id="no driver"
    ),
    pytest.param(GpuView(now_s=1000.0), GpuState.NO_DRIVER, "NVML lists no GPU", id="a driver without a GPU"),
    pytest.param(
        replace(WELL, units=(), missing=("GPU-1",), misses=1, says_lost=True),
        GpuState.LOST,
        "GPU-1: NVML says that it is lost",
        id="NVML says that it is lost",
    ),
    pytest.param(
        replace(WELL, units=(), readings=(), says_lost=True),
        GpuState.LOST,
        "NVML says that the GPU is lost",
        id="lost before it was ever seen",
    ),
    pytest.param(
        replace(WELL, missing=("GPU-2",), misses=health.MISSES_UNTIL_LOST - 1),
        GpuState.HEALTHY,
        "GPUs that answer: 1",
        id="a look that fails once proves nothing",
    ),
    pytest.param(
        replace(WELL, missing=("GPU-2",), misses=health.MISSES_UNTIL_LOST),
        GpuState.LOST,
        "GPU-2: NVML no longer finds it",
        id="a GPU that is not found again and again",
    ),
    pytest.param(
        replace(WELL, marks=(mark(ReactionKind.LOST),)), GpuState.LOST, "GPU-1: Xid 1: a fault", id="Xid 79"
    ),
    pytest.param(
        replace(WELL, marks=(mark(ReactionKind.RESET),)),
        GpuState.NEEDS_RESET,
        "GPU-1: Xid 1: a fault",
        id="an Xid that needs a reset",
    ),
    pytest.param(
        replace(WELL, readings=reading(recovery_action="GpuReset")),
        GpuState.NEEDS_RESET,
        "GPU-1: the driver asks for GpuReset",
        id="the driver asks for a reset",
    ),
    pytest.param(
        replace(WELL, readings=reading(recovery_action="None")),
        GpuState.HEALTHY,
        "GPUs that answer: 1",
        id="the driver asks for nothing",
    ),
    pytest.param(
        replace(WELL, readings=reading(has_remap_failed=True)),
        GpuState.NEEDS_RESET,
        "GPU-1: a row of memory could not be remapped",
        id="a row that could not be remapped",
    ),
    pytest.param(
        replace(WELL, marks=(mark(ReactionKind.CORDON, uuid=""),)),
        GpuState.UNHEALTHY,
        "Xid 1: a fault",
        id="an unknown Xid of an unknown GPU",
    ),
    pytest.param(
        replace(WELL, marks=(mark(ReactionKind.CORDON), mark(ReactionKind.RESET))),
        GpuState.NEEDS_RESET,
        "GPU-1: Xid 1: a fault",
        id="the gravest counts",
    ),
    pytest.param(
        replace(WELL, units=(ILL,)), GpuState.DEGRADED, "GPU-1: 2 errors", id="uncorrected memory errors"
    ),
    pytest.param(
        replace(WELL, readings=reading(is_remap_pending=True)),
        GpuState.DEGRADED,
        "GPU-1: a row of memory is remapped at the next reset",
        id="a row waits for its remapping",
    ),
    pytest.param(
        replace(WELL, silent_s=47.0), GpuState.DEGRADED, "NVML has not answered for 40 s", id="NVML hangs"
    ),
]


@pytest.mark.parametrize(("view", "state", "reason"), STATES)
def test_the_gravest_finding_is_the_state(view: GpuView, state: GpuState, reason: str) -> None:
    verdict = health.decide(view)
    assert (verdict.state, verdict.reason) == (state, reason)


@pytest.mark.parametrize(
    ("state", "cordoned", "switches", "starts", "ends"),
    [
        (GpuState.HEALTHY, False, True, True, False),
        (GpuState.DEGRADED, False, True, True, False),
        (GpuState.UNHEALTHY, True, False, True, False),
        (GpuState.NEEDS_RESET, True, False, False, False),
        (GpuState.NO_DRIVER, False, False, False, False),
        (GpuState.LOST, True, False, False, True),
    ],
)
def test_what_each_state_allows(
    state: GpuState, *, cordoned: bool, switches: bool, starts: bool, ends: bool
) -> None:
    verdict = health.GpuVerdict(state=state, reason="why")
    assert verdict.is_cordoned is cordoned
    assert verdict.switch_hold == (None if switches else "why")
    assert verdict.start_hold == (None if starts else "why")
    assert verdict.must_end == ("why" if ends else None)


LATER = replace(WELL, now_s=990.0 + health.LOST_FOR_S + 1)


@pytest.mark.parametrize(
    ("kind", "view", "counts"),
    [
        pytest.param(ReactionKind.LOST, WELL, True, id="just after Xid 79 NVML may still answer"),
        pytest.param(ReactionKind.LOST, LATER, False, id="a GPU that answers later is back"),
        pytest.param(
            ReactionKind.LOST, replace(LATER, missing=("GPU-1",)), True, id="unless it is not found"
        ),
        pytest.param(ReactionKind.LOST, replace(LATER, says_lost=True), True, id="or said to be lost"),
        pytest.param(ReactionKind.LOST, replace(LATER, error="no"), True, id="or there is no driver"),
        pytest.param(ReactionKind.RESET, LATER, True, id="a reset is not seen from inside"),
        pytest.param(ReactionKind.CORDON, LATER, True, id="nor is a repair"),
    ],
)
def test_how_long_an_xid_counts(kind: ReactionKind, view: GpuView, *, counts: bool) -> None:
    assert health.outlives(mark(kind), view) is counts
