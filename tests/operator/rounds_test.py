"""A round over several services: what one of them reports ends no other's loop."""

from __future__ import annotations

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


def test_a_service_that_is_made_anew_under_its_name_has_a_loop_of_its_own() -> None:
    rounds = Rounds(None, 15.0, lambda _: [], lambda _: {}, lambda _: None, now_s=lambda: NOW_S)  # type: ignore[arg-type]
    first = rounds.follow(WELL, ADMISSION, observed())
    assert rounds.follow(WELL, ADMISSION, observed()) is first
    metadata = replace(observed().service.metadata, uid="uid-anew")
    anew = observed(service=replace(observed().service, metadata=metadata))
    second = rounds.follow(WELL, ADMISSION, anew)
    assert second is not first
    assert rounds.services[WELL] is second
