"""Events: one object for what is said again and again, a new one for what is new or was said long ago."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from fleet_objects import service
from played_turns import refusal

from semipd_operator.apply.recorder import WINDOW_S, Recorder
from semipd_operator.plan.transitions import Transition

MISSED = Transition(reason="Missed", note="240 of 250 ms", detail="SLOMet", is_warning=True)


class Server:
    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.error: Exception | None = None

    async def create(self, event: Any) -> None:
        if self.error is not None:
            raise self.error
        self.events[event["metadata"]["name"]] = dict(event)

    async def patch(self, _: object, name: str, patch: dict[str, Any], **__: object) -> None:
        if name not in self.events:
            raise refusal(404, "not found")
        self.events[name] |= patch


class Told:
    """A recorder, its server and its clock."""

    def __init__(self) -> None:
        self.server = Server()
        self.now = datetime(2026, 11, 21, 12, tzinfo=UTC)
        self.recorder = Recorder(self.server, "semipd-operator-1", lambda: self.now)  # type: ignore[arg-type]

    async def say(self, transition: Transition = MISSED, *, later_s: float = 1.0) -> None:
        self.now += timedelta(seconds=later_s)
        await self.recorder.record(service(), transition)

    @property
    def counts(self) -> list[int]:
        return [each.get("series", {}).get("count", 1) for each in self.server.events.values()]


async def test_what_is_said_again_is_counted_in_the_event_that_is_there() -> None:
    told = Told()
    for _ in range(3):
        await told.say()
    assert told.counts == [3]
    [event] = told.server.events.values()
    assert (event["type"], event["reason"], event["note"]) == ("Warning", "Missed", "240 of 250 ms")
    assert event["series"]["lastObservedTime"] == "2026-11-21T12:00:03.000000Z"
    assert event["eventTime"] == "2026-11-21T12:00:01.000000Z"


@pytest.mark.parametrize(
    ("transition", "later_s"),
    [
        pytest.param(Transition(reason="Met", note="", detail="SLOMet"), 1.0, id="something else"),
        pytest.param(MISSED, WINDOW_S + 1, id="long ago"),
    ],
)
async def test_what_is_new_is_an_event_of_its_own(transition: Transition, later_s: float) -> None:
    told = Told()
    await told.say()
    await told.say(transition, later_s=later_s)
    assert told.counts == [1, 1]


async def test_an_event_that_somebody_has_deleted_is_made_anew() -> None:
    told = Told()
    await told.say()
    told.server.events.clear()
    for _ in range(2):
        await told.say()
    assert told.counts == [2]


async def test_what_cannot_be_written_is_let_go() -> None:
    told = Told()
    told.server.error = httpx2.ConnectError("refused")
    await told.say()
    told.server.error = None
    await told.say()
    assert told.counts == [1]
