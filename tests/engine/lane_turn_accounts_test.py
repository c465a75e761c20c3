"""Shares kept by taking turns: what two lanes get of one device, simulated with a virtual clock."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semipd_core.partition import Role
from semipd_engine.lane.turn_accounts import BURST_NS, TurnAccount

MS = 1_000_000


def run_device(caps: dict[Role, int], turn_ms: dict[Role, float], seconds: float = 20.0) -> dict[Role, float]:
    """Share of the time each lane computes, both of `caps` having work all the time."""
    accounts = {role: TurnAccount() for role in caps}
    used_ns = dict.fromkeys(caps, 0)
    now_ns = 0
    end_ns = int(seconds * 1e9)
    while now_ns < end_ns:
        eligible = [role for role in caps if accounts[role].wait_ns(now_ns) == 0]
        if not eligible:
            now_ns = min(accounts[role].paid_until_ns for role in caps)
            continue
        role = min(eligible, key=lambda each: accounts[each].virtual_ns)
        finished_ns = now_ns + int(turn_ms[role] * MS)
        accounts[role] = accounts[role].charged(now_ns, finished_ns, caps[role])
        used_ns[role] += finished_ns - now_ns
        now_ns = finished_ns
    return {role: used / now_ns for role, used in used_ns.items()}


def expected_shares(prefill: int, decode: int) -> dict[Role, float]:
    total = max(100, prefill + decode)
    return {Role.PREFILL: prefill / total, Role.DECODE: decode / total}


@pytest.mark.parametrize(
    ("prefill", "decode"),
    [
        pytest.param(100, 100, id="equal caps share the device equally"),
        pytest.param(20, 100, id="a sum above 100 is shared in proportion"),
        pytest.param(60, 100, id="a larger prefill cap takes more from decode"),
        pytest.param(30, 60, id="a sum below 100 leaves the rest idle"),
        pytest.param(50, 50, id="a sum of 100 gives each its cap"),
    ],
)
def test_two_busy_lanes_get(prefill: int, decode: int) -> None:
    shares = run_device({Role.PREFILL: prefill, Role.DECODE: decode}, {Role.PREFILL: 8.0, Role.DECODE: 2.0})
    for role, share in expected_shares(prefill, decode).items():
        assert shares[role] == pytest.approx(share, abs=0.02)


@given(
    prefill=st.integers(5, 100),
    decode=st.integers(5, 100),
    prefill_ms=st.floats(0.5, 10),
    decode_ms=st.floats(0.5, 10),
)
@settings(max_examples=40, deadline=None)
def test_shares_do_not_depend_on_how_long_a_layer_takes(
    prefill: int, decode: int, prefill_ms: float, decode_ms: float
) -> None:
    shares = run_device(
        {Role.PREFILL: prefill, Role.DECODE: decode}, {Role.PREFILL: prefill_ms, Role.DECODE: decode_ms}
    )
    for role, share in expected_shares(prefill, decode).items():
        assert shares[role] == pytest.approx(share, abs=0.05)


@given(cap=st.integers(1, 100), turn_ms=st.floats(0.5, 30))
@settings(max_examples=40, deadline=None)
def test_a_lane_alone_runs_at_its_cap(cap: int, turn_ms: float) -> None:
    shares = run_device({Role.PREFILL: cap}, {Role.PREFILL: turn_ms}, seconds=60.0)
    assert shares[Role.PREFILL] == pytest.approx(cap / 100, abs=0.03)


def test_an_idle_lane_saves_no_priority() -> None:
    busy = TurnAccount(virtual_ns=500 * MS, finished_ns=500 * MS)
    joined = TurnAccount(virtual_ns=10 * MS, finished_ns=10 * MS).joined(busy, now_ns=500 * MS)
    assert busy.virtual_ns - joined.virtual_ns <= 5 * MS


def test_a_lane_that_pauses_between_steps_keeps_its_priority() -> None:
    busy = TurnAccount(virtual_ns=500 * MS, finished_ns=500 * MS)
    owed = TurnAccount(virtual_ns=10 * MS, finished_ns=499 * MS)
    assert owed.joined(busy, now_ns=500 * MS) == owed


def test_a_lane_kept_waiting_catches_up_by_one_burst_at_most() -> None:
    account = TurnAccount(paid_until_ns=0).charged(1_000 * MS, 1_010 * MS, 50)
    assert account.paid_until_ns == 1_000 * MS - BURST_NS + 20 * MS
