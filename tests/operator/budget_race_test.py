"""A GPU budget with services that are applied together, before a workload of either is there."""

from __future__ import annotations

import asyncio

import pytest
from played_turns import PlayedCluster

CLASS = {
    "apiVersion": "semipd.io/v1alpha1",
    "kind": "SemiPDClass",
    "metadata": {"name": "gold"},
    "spec": {"gpuBudget": 4},
}


async def test_two_services_that_are_applied_together_do_not_get_the_same_gpus() -> None:
    cluster = PlayedCluster()
    cluster.server.hold(CLASS)
    keys = [cluster.service(name, replicas=3, classRef={"name": "gold"}) for name in ("first", "second")]
    cluster.see()
    await asyncio.gather(*map(cluster.reconciler.reconcile, keys))
    assert cluster.written("Deployment") == ["first"]
    assert cluster.condition("Degraded", "second")[1] == "ClassRefuses"
    del cluster.server.objects["SemiPDService", "first"], cluster.server.objects["Deployment", "first"]
    cluster.see()
    for key in keys:
        await cluster.reconciler.reconcile(key)
    assert cluster.written("Deployment") == ["second"]


@pytest.mark.parametrize("is_deleted", [True, False])
async def test_gpus_that_one_gives_back_are_room_for_another_at_once(is_deleted: bool) -> None:
    cluster = PlayedCluster()
    cluster.server.hold(CLASS)
    first, second = (
        cluster.service(name, replicas=3, classRef={"name": "gold"}) for name in ("first", "second")
    )
    cluster.see()
    for key in (first, second):
        await cluster.reconciler.reconcile(key)
    cluster.see()
    await cluster.reconciler.reconcile(first)
    assert cluster.has_room == []
    if is_deleted:
        del cluster.server.objects["SemiPDService", "first"], cluster.server.objects["Deployment", "first"]
    else:
        cluster.service("first", replicas=1, classRef={"name": "gold"})
    for _ in range(2):  # asked for, and by the workload
        cluster.see()
        await cluster.reconciler.reconcile(first)
    assert set(cluster.has_room) == {second}
    await cluster.reconciler.reconcile(second)
    assert "second" in cluster.written("Deployment")
