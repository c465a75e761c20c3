"""Which isolation `Auto` comes to, by what was found at start; and what an agent that fell back makes of its wishes."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_process import agent_config
from msgspec.structs import replace

from semipd_agent.configure import runnable_wish, with_isolation
from semipd_agent.device.reading import DriverVersions, Look
from semipd_agent.isolation import choose, refuse_green_contexts, refuse_mps
from semipd_agent.isolation_probe import settle_isolation
from semipd_agent.journal import entries as entry
from semipd_agent.journal.file import Journal
from semipd_agent.journal.recovery import recover, snapshot
from semipd_agent.mps.plan import Verdict
from semipd_agent.mps.preflight import Refusal
from semipd_agent.mps.view import MpsState
from semipd_agent.run_directory import RunDirectory
from semipd_core.agent_config import BandWire, PartitionSettings, PartitionWire, WishWire
from semipd_core.partition import Isolation

MPS, GREEN, NONE, UNIFIED = Isolation.MPS, Isolation.GREEN_CONTEXT, Isolation.NONE, Isolation.UNIFIED
AUTO = (MPS, GREEN, NONE)
NEW_CUDA, OLD_CUDA = (13, 0), (12, 2)
ACTIVE = Verdict(state=MpsState.ACTIVE, reason="server 7 is active", lanes_allowed=True)


def refused(reason: str) -> Verdict:
    return Verdict(
        state=MpsState.REFUSED,
        reason=f"{reason}: why",
        refusal=Refusal(reason=reason, message="why"),
    )


GIVEN_UP = Verdict(state=MpsState.GIVEN_UP, reason="the server ended 5 times in a row")
STARTING = Verdict(state=MpsState.STARTING, reason="the server initializes")


def settings(choices: tuple[Isolation, ...] = AUTO, **bounds: int) -> PartitionSettings:
    return agent_config(isolation=choices[0], fallbacks=choices[1:], **bounds).partition


def chosen(
    asked: PartitionSettings, mps: Verdict, cuda: tuple[int, int] | None, num_ranks: int = 1
) -> tuple[Isolation, str, str]:
    found = {MPS: refuse_mps(mps), GREEN: refuse_green_contexts(cuda, asked, num_ranks)}
    status = choose(asked, {name: refusal for name, refusal in found.items() if refusal is not None})
    return status.isolation, status.reason, status.message


@pytest.mark.parametrize(
    ("mps", "cuda", "isolation", "reason"),
    [
        pytest.param(ACTIVE, NEW_CUDA, MPS, "ProbePassed", id="a server is active"),
        pytest.param(ACTIVE, OLD_CUDA, MPS, "ProbePassed", id="green contexts do not matter then"),
        pytest.param(refused("NoBinary"), NEW_CUDA, GREEN, "NoMpsBinary", id="no MPS binary"),
        pytest.param(refused("ForeignServer"), NEW_CUDA, GREEN, "MpsRefused", id="somebody else's server"),
        pytest.param(refused("PathTooLong"), NEW_CUDA, GREEN, "MpsRefused", id="no place for its sockets"),
        pytest.param(GIVEN_UP, NEW_CUDA, GREEN, "MpsGivenUp", id="the server does not start"),
        pytest.param(STARTING, NEW_CUDA, GREEN, "MpsNotReady", id="it was not ready in time"),
        pytest.param(
            refused("NoBinary"), OLD_CUDA, NONE, "NoMpsBinary", id="a driver without green contexts"
        ),
        pytest.param(GIVEN_UP, None, NONE, "MpsGivenUp", id="a driver that does not tell"),
        pytest.param(refused("NoDriver"), None, MPS, "NoDriver", id="nothing runs without a driver"),
        pytest.param(
            refused("WrongComputeMode"),
            NEW_CUDA,
            MPS,
            "WrongComputeMode",
            id="nothing runs where one process has the GPU",
        ),
    ],
)
def test_auto_takes_the_first_that_can_be_had_and_says_why(
    mps: Verdict, cuda: tuple[int, int] | None, isolation: Isolation, reason: str
) -> None:
    found, why, message = chosen(settings(), mps, cuda)
    assert (found, why) == (isolation, reason)
    assert mps is ACTIVE or mps.reason.split(": ")[-1] in message


@pytest.mark.parametrize(
    ("choices", "mps", "cuda", "isolation", "reason"),
    [
        pytest.param((MPS,), refused("NoBinary"), NEW_CUDA, MPS, "AsAsked", id="MPS alone was asked for"),
        pytest.param((UNIFIED,), ACTIVE, NEW_CUDA, UNIFIED, "AsAsked", id="one lane was asked for"),
        pytest.param(
            (MPS, NONE), GIVEN_UP, NEW_CUDA, NONE, "MpsGivenUp", id="a class without green contexts"
        ),
        pytest.param((GREEN, NONE), ACTIVE, NEW_CUDA, GREEN, "ProbePassed", id="a class without MPS"),
        pytest.param((GREEN, NONE), ACTIVE, OLD_CUDA, NONE, "NoGreenContexts", id="and an old driver"),
        pytest.param((MPS, GREEN), GIVEN_UP, OLD_CUDA, MPS, "MpsGivenUp", id="nothing that is allowed runs"),
    ],
)
def test_nothing_is_taken_that_was_not_allowed(
    choices: tuple[Isolation, ...], mps: Verdict, cuda: tuple[int, int], isolation: Isolation, reason: str
) -> None:
    found, why, _ = chosen(settings(choices), mps, cuda)
    assert (found, why) == (isolation, reason)


def test_green_contexts_need_bounds_that_hold_one_of_their_splits() -> None:
    asked = settings(decode_min_percent=100)
    found, reason, message = chosen(asked, refused("NoBinary"), NEW_CUDA)
    assert (found, reason) == (NONE, "NoMpsBinary")
    assert "no MPS: MPS Refused: NoBinary: why; no GreenContext: spec.partition.bounds: got" in message


def test_green_contexts_are_not_taken_for_an_engine_on_several_gpus() -> None:
    found, reason, message = chosen(settings(), refused("NoBinary"), NEW_CUDA, num_ranks=2)
    assert (found, reason) == (NONE, "NoMpsBinary")
    assert message.endswith(
        "; no GreenContext: gpusPerEngine: got 2, allowed: 1 with green contexts in this version"
    )


@pytest.mark.parametrize(("num_ranks", "isolation"), [(1, GREEN), (2, NONE)])
async def test_the_probe_asks_for_as_many_gpus_as_an_engine_has(
    tmp_path: Path, num_ranks: int, isolation: Isolation
) -> None:
    config = replace(agent_config(isolation=GREEN, fallbacks=(NONE,), device="CUDA"), num_ranks=num_ranks)
    settled = await settle_isolation(
        config,
        RunDirectory(tmp_path),
        Journal(tmp_path / "journal.jsonl"),
        ("no-mps",),
        sharing=list,
        look=Look(versions=DriverVersions(driver=None, cuda=NEW_CUDA)),
    )
    assert settled.isolation.isolation is isolation


# --- what follows from it -------------------------------------------------------------------------------------------


def test_the_journal_keeps_the_choice_through_a_compaction() -> None:
    chosen = entry.IsolationChosen(isolation=GREEN, reason="NoMpsBinary", message="why")
    state = recover([entry.Opened(), chosen])
    assert state.isolation is not None
    assert (state.isolation.isolation, state.isolation.reason) == (GREEN, "NoMpsBinary")
    assert recover(snapshot(state)).isolation == state.isolation
    assert entry.decode(entry.encode(chosen).rstrip()) == chosen


@pytest.mark.parametrize(
    ("isolation", "initial"),
    [
        pytest.param(MPS, (80, 100), id="as asked"),
        pytest.param(GREEN, (40, 60), id="shares that add up to the device"),
        pytest.param(NONE, (100, 100), id="no shares"),
    ],
)
def test_engines_start_at_a_split_that_the_isolation_in_force_can_run(
    isolation: Isolation, initial: tuple[int, int]
) -> None:
    config = with_isolation(agent_config(isolation=MPS, fallbacks=(GREEN, NONE), device="CUDA"), isolation)
    partition = config.partition
    assert (partition.initial_prefill_percent, partition.initial_decode_percent) == initial
    assert partition.isolation is isolation
    assert partition.has_fallen_back is (isolation is not MPS)


def wish(target: tuple[int, int], band: tuple[int, int, int, int] | None) -> WishWire:
    names = ("prefill_min_percent", "prefill_max_percent", "decode_min_percent", "decode_max_percent")
    return WishWire(
        target=PartitionWire(prefill_percent=target[0], decode_percent=target[1]),
        decision_id="cluster-1",
        band=None if band is None else BandWire(**dict(zip(names, band, strict=True))),
    )


@pytest.mark.parametrize(
    ("isolation", "asked", "band", "taken", "is_band_kept"),
    [
        pytest.param(GREEN, (60, 40), (45, 75, 40, 55), (60, 40), True, id="legal here"),
        pytest.param(GREEN, (80, 20), None, (80, 20), False, id="legal here, whatever the pod's own bounds"),
        pytest.param(GREEN, (80, 100), (65, 95, 85, 100), (40, 60), False, id="the band holds none"),
        pytest.param(GREEN, (50, 100), (20, 60, 40, 100), (30, 70), True, id="the nearest inside the band"),
        pytest.param(NONE, (80, 100), (65, 95, 85, 100), (100, 100), False, id="nothing to split"),
        pytest.param(NONE, (100, 100), None, (100, 100), False, id="asked for what there is"),
    ],
)
def test_a_wish_of_who_does_not_know_is_followed_as_far_as_it_can_be(
    isolation: Isolation,
    asked: tuple[int, int],
    band: tuple[int, int, int, int] | None,
    taken: tuple[int, int],
    is_band_kept: bool,
) -> None:
    given = wish(asked, band)
    found = runnable_wish(isolation, given)
    assert (found.target.prefill_percent, found.target.decode_percent) == taken
    assert found.decision_id == given.decision_id
    assert (found.band is not None) is is_band_kept
