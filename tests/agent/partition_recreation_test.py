"""A partition that is deleted and made again gets its status at once, though nothing else has changed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from semipd_agent.kubernetes.partition_source import PartitionSource
from semipd_agent.kubernetes.status_writer import StatusWriter
from semipd_core.api.partition import PodPartitionStatus

KEY: Any = ("team-a", "chat-1")


def made(uid: str) -> dict[str, Any]:
    return {"metadata": {"name": "chat-1", "namespace": "team-a", "uid": uid, "generation": 1}}


def test_the_status_is_written_anew_once_per_object() -> None:
    written: list[str] = []

    async def apply(_manifest: object, **_options: object) -> None:
        written.append(source.uid or "not known")

    def build(old: PodPartitionStatus, _now: str) -> PodPartitionStatus:
        return replace(old, observed_generation=1)

    async def write_twice() -> None:
        for _ in range(2):
            await writer.write_if_due(now_s=0.0)

    client: Any = SimpleNamespace(apply=apply)
    source = PartitionSource(client, *KEY)
    writer = StatusWriter(client, *KEY, build, lambda: source.uid)
    for now in (None, made("first"), None, made("second")):
        source._note(KEY, None, now)
        asyncio.run(write_twice())
    assert written == ["not known", "second"]
