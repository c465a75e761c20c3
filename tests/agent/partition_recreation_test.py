"""Whose status is written: that of the partition as it was found, once more if it is deleted and made again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from semipd_agent.kubernetes.partition_source import PartitionSource
from semipd_agent.kubernetes.status_writer import StatusWriter
from semipd_core.api import codec
from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType, set_condition
from semipd_core.api.partition import PodPartitionStatus

KEY: Any = ("team-a", "chat-1")
BEFORE, NOW = "2026-11-21T12:00:00Z", "2026-11-22T12:00:00Z"
Status = dict[str, Any]


def made(uid: str, **more: object) -> dict[str, Any]:
    return {
        "apiVersion": "semipd.io/v1alpha1",
        "kind": "SemiPDPartition",
        "metadata": {"name": "chat-1", "namespace": "team-a", "uid": uid, "generation": 1},
        "spec": {
            "target": {"prefillPercent": 60, "decodePercent": 100},
            "decisionID": "cluster-1",
            "reason": "Test",
            "message": "asked by a test",
        },
        **more,
    }


def written(
    seen: Iterable[object], build: Callable[[PodPartitionStatus, str], PodPartitionStatus]
) -> list[tuple[str, Status]]:
    """UID and status of each write, by a writer that has two opportunities after each object in `seen`."""
    found: list[tuple[str, Status]] = []

    async def apply(manifest: Any, **_options: object) -> None:
        assert source.found is not None
        found.append((str(source.found.uid), manifest["status"]))

    async def write_twice() -> None:
        for _ in range(2):
            await writer.write_if_due(now_s=0.0)

    client: Any = SimpleNamespace(apply=apply)
    source = PartitionSource(client, *KEY)
    writer = StatusWriter(client, *KEY, build, lambda: source.found)
    for now in seen:
        source._note(KEY, None, now)  # type: ignore[arg-type]
        asyncio.run(write_twice())
    return found


def test_the_status_is_written_anew_once_per_object() -> None:
    def build(old: PodPartitionStatus, _now: str) -> PodPartitionStatus:
        return replace(old, observed_generation=1)

    seen = (None, made("first"), None, made("first"), made("second"))
    assert [uid for uid, _ in written(seen, build)] == ["first", "second"]


@pytest.mark.parametrize(
    ("status", "since"),
    [
        pytest.param(ConditionStatus.FALSE, BEFORE, id="one that holds keeps its time"),
        pytest.param(ConditionStatus.TRUE, NOW, id="one that has changed gets a new one"),
    ],
)
def test_an_agent_goes_on_from_what_the_one_before_it_has_written(
    status: ConditionStatus, since: str
) -> None:
    def build(old: PodPartitionStatus, _now: str) -> PodPartitionStatus:
        wanted = Condition(type=ConditionType.DEGRADED, status=status, reason="Healthy", message="")
        return replace(old, conditions=set_condition(old.conditions, wanted, NOW))

    old = Condition(
        type=ConditionType.DEGRADED,
        status=ConditionStatus.FALSE,
        reason="Healthy",
        message="",
        last_transition_time=BEFORE,
    )
    left = codec.encode(PodPartitionStatus(conditions=(old,)))
    [(_, found)] = written([made("first", status=left)], build)
    assert [each["lastTransitionTime"] for each in found["conditions"]] == [since]
