"""A round over several services: what one of them reports ends no other's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import msgspec
import pytest
from fleet_objects import observed, pod, service_class
from played_cluster import engine_report

from semipd_core.slo.pooled import WindowState
from semipd_core.telemetry import EngineReport
from semipd_operator.plan.plan import Installation, admit
from semipd_operator.rounds import Rounds
from semipd_shell.informer import Key

ILL, WELL = Key("team-a", "ill"), Key("team-a", "well")
NOW_S = 1_000_000.0
INSTALLATION = Installation(namespace="semipd-system", engine_image="semipd/engine:1")
ADMISSION = admit(observed(), [service_class(default=True, device="CPU")], INSTALLATION, 0)


class Agents:
    """Those of `ill` say `report`."""

    def __init__(self, report: EngineReport) -> None:
        self._report = report

    async def scrape(
        self, addresses: Mapping[Key, Mapping[str, str]], deadline_s: float
    ) -> AsyncIterator[tuple[Key, dict[str, list[EngineReport]]]]:
        for key, pods in addresses.items():
            yield key, {name: [self._report if key == ILL else engine_report(now_s=NOW_S)] for name in pods}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"requested": (0, 0), "granted": (0, 0)}, id="of a split that there is not"),
        pytest.param({"at_s": "yesterday", "front_end": "none"}, id="of another form"),
    ],
)
async def test_a_service_whose_reports_cannot_be_worked_with_is_without_data_and_the_others_go_on(
    changes: dict[str, object],
) -> None:
    agents = Agents(msgspec.structs.replace(engine_report(now_s=NOW_S), **changes))
    rounds = Rounds(
        agents,  # type: ignore[arg-type]
        15.0,
        lambda _: [pod()],
        lambda _: {},
        lambda _: None,
        now_s=lambda: NOW_S,
    )
    for key in (ILL, WELL):
        rounds.follow(key, ADMISSION, observed())
    await rounds.look()
    found = {key: looped.round.window_state for key, looped in rounds.services.items() if looped.round}
    assert found == {ILL: WindowState.NO_DATA, WELL: WindowState.MET}


class HurriedAgents(Agents):
    """Asked in order, by somebody who has time for `time_for` services of a round."""

    time_for = 1

    async def scrape(
        self, addresses: Mapping[Key, Mapping[str, str]], deadline_s: float
    ) -> AsyncIterator[tuple[Key, dict[str, list[EngineReport]]]]:
        asked = dict(list(addresses.items())[: self.time_for])
        async for each in super().scrape(asked, deadline_s):
            yield each


async def test_services_that_rounds_have_no_time_for_keep_their_state_and_all_get_their_turn() -> None:
    agents, now_s = HurriedAgents(engine_report(now_s=NOW_S)), NOW_S
    rounds = Rounds(
        agents,  # type: ignore[arg-type]
        15.0,
        lambda _: [pod()],
        lambda _: {},
        lambda _: None,
        now_s=lambda: now_s,
    )
    keys = [Key("team-a", f"chat-{number}") for number in range(5)]
    for key in keys:
        rounds.follow(key, ADMISSION, observed())
    looked_at = []
    for _ in keys:
        await rounds.look()
        assert rounds.left_out == 4
        looked_at += [key for key in keys if rounds.services[key].looked_s == now_s]
        now_s += 1.0
    assert looked_at == keys, "not asked is not without data, and nobody is passed over"
    assert {looped.round.window_state for looped in rounds.services.values() if looped.round} == {
        WindowState.MET
    }
    agents.time_for = 5
    await rounds.look()
    assert rounds.left_out == 0


async def test_what_was_known_of_a_service_that_is_not_asked_any_more_gets_old() -> None:
    agents, now_s = HurriedAgents(engine_report(now_s=NOW_S)), NOW_S
    rounds = Rounds(
        agents,  # type: ignore[arg-type]
        15.0,
        lambda _: [pod()],
        lambda _: {},
        lambda _: None,
        now_s=lambda: now_s,
    )
    looped = rounds.follow(WELL, ADMISSION, observed())
    await rounds.look()
    agents.time_for = 0
    for later_s, state in ((15.0, WindowState.MET), (60.0, WindowState.MET), (75.0, WindowState.NO_DATA)):
        now_s = NOW_S + later_s
        await rounds.look()
        assert looped.round is not None
        assert looped.round.window_state is state
    assert looped.looked_s == NOW_S


async def test_turns_go_on_between_the_steps_of_a_round() -> None:
    at_a_turn: list[int] = []
    rounds = Rounds(
        Agents(engine_report(now_s=NOW_S)),  # type: ignore[arg-type]
        15.0,
        lambda _: [pod()],
        lambda _: {},
        lambda _: None,
        now_s=lambda: NOW_S,
    )
    for number in range(5):
        rounds.follow(Key("team-a", f"chat-{number}"), ADMISSION, observed())

    async def turns() -> None:
        while True:
            at_a_turn.append(sum(each.round is not None for each in rounds.services.values()))
            await asyncio.sleep(0)

    turning = asyncio.create_task(turns())
    await rounds.look()
    turning.cancel()
    assert set(at_a_turn) >= {1, 2, 3, 4}


def test_a_service_that_is_made_anew_under_its_name_has_a_loop_of_its_own() -> None:
    rounds = Rounds(None, 15.0, lambda _: [], lambda _: {}, lambda _: None, now_s=lambda: NOW_S)  # type: ignore[arg-type]
    first = rounds.follow(WELL, ADMISSION, observed())
    assert rounds.follow(WELL, ADMISSION, observed()) is first
    metadata = replace(observed().service.metadata, uid="uid-anew")
    anew = observed(service=replace(observed().service, metadata=metadata))
    second = rounds.follow(WELL, ADMISSION, anew)
    assert second is not first
    assert rounds.services[WELL] is second
