"""When does kopf begin to watch, and what is kept of the world until then?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from semipd_operator import kopf_watch
from semipd_operator.kopf_watch import KopfWatch
from semipd_operator.observe.world import World
from semipd_shell.informer import Key

KEY = Key("team-a", "chat")
REQUEST = httpx2.Request("GET", "http://server")
UNREACHABLE = httpx2.ConnectError("refused")


def answer(code: int) -> httpx2.HTTPStatusError:
    """As for a path that nobody serves: plain text, no Status object."""
    return httpx2.HTTPStatusError("said so", request=REQUEST, response=httpx2.Response(code))


class Server:
    """Gives one answer after the other, None for a list, and the last one for ever."""

    def __init__(self, world: World, *answers: Exception | None) -> None:
        self._world = world
        self._answers = list(answers)
        self.seen: list[int] = []  # how many services were known at each question

    async def list(self, *_: object, **__: object) -> AsyncIterator[Any]:
        self.seen.append(len(self._world.services))
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if found is not None:
            raise found
        yield {}


@pytest.mark.parametrize(
    ("answers", "seen"),
    [
        pytest.param([None], [1, 1], id="both kinds are served"),
        pytest.param([UNREACHABLE, UNREACHABLE, None], [1, 1, 1, 1], id="an outage forgets nothing"),
        pytest.param([answer(404), None], [1, 0, 0], id="kinds that are gone take their objects along"),
        pytest.param([answer(403), None], [1], id="what is forbidden is served: kopf says so"),
    ],
)
async def test_it_waits_until_both_kinds_are_served(
    answers: list[Exception | None], seen: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kopf_watch, "RETRY_S", 0.0)
    world = World(None, None, lambda _key: None)  # type: ignore[arg-type]
    world.note_service(KEY, {"metadata": {"name": "chat"}})
    server = Server(world, *answers)
    await KopfWatch(server, None, world, "first")._until_served()  # type: ignore[arg-type]
    assert server.seen == seen
