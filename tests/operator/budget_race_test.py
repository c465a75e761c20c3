"""A GPU budget with services that are applied together, before a workload of either is there."""

from __future__ import annotations

import asyncio

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
