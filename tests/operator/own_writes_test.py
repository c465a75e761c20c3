"""kopf's watch may be a minute late after an outage: what the operator has written itself it knows without it."""

from __future__ import annotations

import pytest
from played_turns import NAMESPACE, PlayedCluster, refusal

from semipd_operator.apply.applier import FieldOwned
from semipd_operator.observe.world import World
from semipd_shell.informer import Key

KEY = Key(NAMESPACE, "chat")


def service(version: int, status: str) -> dict[str, object]:
    metadata = {"name": KEY.name, "namespace": KEY.namespace, "resourceVersion": str(version)}
    return {"metadata": metadata, "spec": {}, "status": {"is": status}}


async def test_a_status_goes_back_to_what_the_watch_has_told_last() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    for _ in range(2):
        cluster.see()
        await cluster.reconciler.reconcile(key)
    cluster.see()
    before = cluster.condition("PartitionApplied")
    cluster.pod("chat-1")
    cluster.see(but="SemiPDService")
    await cluster.reconciler.reconcile(key)
    assert cluster.condition("PartitionApplied") != before
    del cluster.server.objects["Pod", "chat-1"]
    cluster.see(but="SemiPDService")
    await cluster.reconciler.reconcile(key)
    assert cluster.condition("PartitionApplied") == before


async def test_a_transition_is_told_once_however_late_the_watch_is() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    cluster.see()
    await cluster.reconciler.reconcile(key)
    cluster.see()
    cluster.pod("chat-1")
    cluster.server.refuses["SemiPDPartition", "chat-1"] = refusal(409, "kubectl-edit", conflict=True)
    cluster.see(but="SemiPDService")
    for _ in range(4):
        with pytest.raises(FieldOwned):
            await cluster.reconciler.reconcile(key)
    assert [each.reason for each in cluster.recorder.said] == ["Degraded"]


def test_what_has_come_while_it_was_written_is_kept() -> None:
    dirty: list[Key | None] = []
    world = World(None, None, dirty.append)  # type: ignore[arg-type]
    world.note_service(KEY, service(1, "old"))
    before = world.services[KEY]
    world.note_written(KEY, before, service(2, "written"))
    assert world.services[KEY]["status"] == {"is": "written"}
    world.note_service(KEY, service(3, "newer"))
    world.note_written(KEY, before, service(2, "written"))
    assert world.services[KEY]["status"] == {"is": "newer"}
    world.note_service(KEY, None)
    world.note_written(KEY, None, service(4, "gone by now"))
    assert KEY not in world.services
    assert dirty == [KEY] * 3, "its own writes are no news"
