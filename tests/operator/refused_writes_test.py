"""One object that is refused: the others are written, the service's status says which, and it is tried again."""

from __future__ import annotations

import httpx2
import pytest
from played_turns import PlayedCluster, bare_answer, refusal

from semipd_operator.apply.applier import FieldOwned
from semipd_operator.plan.optional_children import POD_MONITOR


@pytest.mark.parametrize(
    ("kind", "error", "message"),
    [
        pytest.param(
            "PodDisruptionBudget",
            refusal(403, "exceeded quota"),
            "PodDisruptionBudget chat: 403: exceeded quota",
            id="a quota",
        ),
        pytest.param(
            "Deployment",
            refusal(500, "failed calling webhook"),
            "Deployment chat: 500: failed calling webhook",
            id="a webhook that is away",
        ),
        pytest.param(
            "PodMonitor", bare_answer(404), "PodMonitor chat: 404: not found", id="a kind that has gone"
        ),
    ],
)
async def test_a_child_that_is_refused_keeps_nothing_else_from_being_written(
    kind: str, error: httpx2.HTTPStatusError, message: str
) -> None:
    cluster = PlayedCluster(POD_MONITOR)
    key = cluster.service()
    cluster.pod("chat-1")
    cluster.server.refuses[kind, "chat"] = error
    cluster.see()
    with pytest.raises(httpx2.HTTPStatusError):
        await cluster.reconciler.reconcile(key)
    assert cluster.condition("Degraded") == ("True", "ChildRefused", message)
    assert cluster.written("SemiPDPartition") == ["chat-1"]
    assert cluster.written("Service")
    cluster.server.refuses.clear()
    cluster.see()
    await cluster.reconciler.reconcile(key)
    assert cluster.condition("Degraded")[:2] == ("False", "Healthy")


async def test_a_write_that_lost_against_another_one_is_tried_again_without_a_word() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    cluster.server.refuses["Role", "chat"] = refusal(409, "the object has been modified")
    cluster.see()
    with pytest.raises(httpx2.HTTPStatusError):
        await cluster.reconciler.reconcile(key)
    assert cluster.condition("Degraded")[:2] == ("False", "Healthy")


async def test_a_server_that_is_busy_is_asked_for_nothing_more() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    names = ("Deployment", "DaemonSet", "Role", "Service", "NetworkPolicy", "PodDisruptionBudget")
    cluster.server.refuses = {(kind, "chat"): refusal(429, "slow down") for kind in names}
    cluster.see()
    with pytest.raises(httpx2.HTTPStatusError):
        await cluster.reconciler.reconcile(key)
    assert cluster.server.status_writes == 0


async def test_the_workload_in_the_place_of_one_that_is_refused_stays() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    cluster.see()
    await cluster.reconciler.reconcile(key)
    cluster.service(placement="EveryNode")
    cluster.server.refuses["DaemonSet", "chat"] = refusal(403, "exceeded quota")
    cluster.see()
    with pytest.raises(httpx2.HTTPStatusError):
        await cluster.reconciler.reconcile(key)
    assert cluster.written("Deployment") == ["chat"]
    cluster.server.refuses.clear()
    cluster.see()
    await cluster.reconciler.reconcile(key)
    assert (cluster.written("Deployment"), cluster.written("DaemonSet")) == ([], ["chat"])


@pytest.mark.parametrize(
    ("owners", "whose"),
    [
        pytest.param([], "nobody's", id="made by hand"),
        pytest.param(
            [{"kind": "SemiPDService", "name": "other", "uid": "uid-other"}],
            "of SemiPDService other",
            id="of another service",
        ),
    ],
)
async def test_an_object_of_a_childs_name_that_is_not_the_services_is_left_alone(
    owners: list[dict[str, str]], whose: str
) -> None:
    """Such as the account `default`, which a service of that name would give its rights."""
    cluster = PlayedCluster()
    key = cluster.service()
    account = {"kind": "ServiceAccount", "metadata": {"name": "chat", "ownerReferences": owners}}
    before = cluster.server.hold(account)
    cluster.see(but="ServiceAccount")  # it bears none of the labels that are watched
    for _ in range(2):
        await cluster.reconciler.reconcile(key)
        said = f"ServiceAccount chat is there and is {whose}: remove it, or give the service another name"
        assert cluster.condition("Degraded") == ("True", "NameTaken", said)
        assert cluster.server.objects["ServiceAccount", "chat"] is before
        assert not cluster.written("RoleBinding")
        assert not cluster.written("Deployment")
        cluster.see(but="ServiceAccount")
    del cluster.server.objects["ServiceAccount", "chat"]
    await cluster.reconciler.reconcile(key)
    assert cluster.written("Deployment") == ["chat"]


async def test_a_child_whose_labels_somebody_has_taken_off_is_still_the_services() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    owners = [{"kind": "SemiPDService", "name": "chat", "uid": "uid-chat"}]
    cluster.server.hold({"kind": "Role", "metadata": {"name": "chat", "ownerReferences": owners}})
    cluster.see(but="Role")
    await cluster.reconciler.reconcile(key)
    assert cluster.written("Deployment") == ["chat"]


async def test_a_partition_that_somebody_else_holds_keeps_no_other_pod_from_its_wish() -> None:
    cluster = PlayedCluster()
    key = cluster.service()
    for name in ("chat-1", "chat-2", "chat-3"):
        cluster.pod(name)
    edited = refusal(409, "conflict with kubectl-edit", conflict=True)
    cluster.server.refuses["SemiPDPartition", "chat-2"] = edited
    cluster.see()
    with pytest.raises(FieldOwned):
        await cluster.reconciler.reconcile(key)
    assert cluster.written("SemiPDPartition") == ["chat-1", "chat-3"]
    for _ in range(2):
        cluster.see()
        with pytest.raises(FieldOwned):
            await cluster.reconciler.reconcile(key)
        said = "SemiPDPartition chat-2: conflict with kubectl-edit"
        assert cluster.condition("Degraded") == ("True", "FieldOwned", said)
    cluster.server.refuses.clear()
    for _ in range(2):  # the wish, and with its news the status
        cluster.see()
        await cluster.reconciler.reconcile(key)
    assert cluster.written("SemiPDPartition") == ["chat-1", "chat-2", "chat-3"]
    assert cluster.condition("Degraded")[:2] == ("False", "Healthy")
