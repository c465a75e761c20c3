"""The Lease beside wall clocks that jump and disagree: only time as each operator counts it elects anybody."""

from __future__ import annotations

import time
from collections import Counter
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from played_turns import refusal

from semipd_operator import __main__ as main
from semipd_operator import lease
from semipd_operator.lease import Election, LeaseTimes
from semipd_operator.settings import OperatorSettings

TIMES = LeaseTimes()


class Server:
    """Holds one Lease."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self._version = 0

    async def get(self, *_: object, **__: object) -> Any:
        if self.lease is None:
            raise refusal(404, "not found")
        return deepcopy(self.lease)

    async def create(self, manifest: Any, **_: object) -> None:
        self._version += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(self._version)}
        self.lease = {**manifest, "metadata": metadata}

    async def replace(self, manifest: Any, **_: object) -> None:
        await self.create(manifest)


class Clocks:
    """The wall's, which each round may find elsewhere, and the one that both operators count by."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.counted_s = 100.0
        self.wall = datetime(2026, 11, 21, 12, tzinfo=UTC)
        clocks = self

        class Wall:
            @staticmethod
            def now(_zone: object) -> datetime:
                return clocks.wall

        monkeypatch.setattr(lease, "datetime", Wall)

    def elections(self, server: Server) -> tuple[Election, Election]:
        client: Any = server
        first, second = (
            Election(client, "semipd-system", "semipd-operator", name, lambda: self.counted_s, TIMES)
            for name in ("first", "second")
        )
        return first, second


@pytest.mark.parametrize("jump", [timedelta(days=1), timedelta(days=-1), timedelta(seconds=31), timedelta()])
async def test_a_wall_clock_that_jumps_elects_nobody(
    jump: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks, server = Clocks(monkeypatch), Server()
    first, second = clocks.elections(server)
    for _ in range(20):
        clocks.wall += jump
        await first._round()
        clocks.wall -= 2 * jump  # the other's is as far away on the other side
        await second._round()
        clocks.wall += 2 * jump
        assert (first.is_leading(), second.is_leading()) == (True, False)
        clocks.counted_s += TIMES.retry_s


async def test_the_lead_changes_by_counted_time_while_the_wall_clock_stands(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks, server = Clocks(monkeypatch), Server()
    first, second = clocks.elections(server)
    await first._round()
    await second._round()
    clocks.counted_s += TIMES.fence_s
    assert not first.is_leading(), "it fences itself before another may take over"
    await second._round()
    assert not second.is_leading()
    clocks.counted_s += TIMES.lease_s - TIMES.fence_s
    await second._round()
    assert second.is_leading()


@pytest.mark.parametrize(("later_s", "is_news"), [(TIMES.retry_s, False), (TIMES.fence_s, True)])
async def test_a_lead_that_was_lost_between_two_rounds_is_news_again(
    later_s: float, is_news: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turns that came in between were left out, and nobody would bring them again."""
    clocks = Clocks(monkeypatch)
    first, _ = clocks.elections(Server())
    await first._round()
    first.changed.clear()
    clocks.counted_s += later_s
    await first._round()
    assert first.is_leading()
    assert first.changed.is_set() == is_news


def test_the_operator_counts_by_the_monotonic_clock() -> None:
    settings = OperatorSettings(engine_image="semipd/engine:1")
    assert main.Operator(settings, None, None, Counter()).election._now_s is time.monotonic  # type: ignore[arg-type]
