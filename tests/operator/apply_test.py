"""When is a child written again? And whose edit is seen?"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from semipd_operator.apply.applier import Applied, Applier, needs_apply
from semipd_operator.observe.child import ChildView, view_child

WANTED = "digest-new"


def child(version: str = "5", digest: str | None = WANTED, *, was_edited: bool = False) -> ChildView:
    return ChildView(service="chat", version=version, digest=digest, was_edited=was_edited)


def applied(
    digest: str = WANTED, before: str | None = "4", after: str = "5", *, is_seen: bool = False
) -> Applied:
    return Applied(digest=digest, before=before, after=after, is_seen=is_seen)


@pytest.mark.parametrize(
    ("found", "last", "expected"),
    [
        pytest.param(None, None, True, id="it is not there"),
        pytest.param(child(), applied(), False, id="it is as we left it"),
        pytest.param(
            child(version="4", digest="digest-old"), applied(), False, id="the informer lags behind our write"
        ),
        pytest.param(None, applied(before=None), False, id="the informer has not seen that we made it"),
        pytest.param(None, applied(before="4"), True, id="somebody deleted what was there before"),
        pytest.param(None, applied(before=None, is_seen=True), True, id="somebody deleted what we had made"),
        pytest.param(
            child(digest="digest-old"), applied("digest-old"), True, id="another manifest is wanted"
        ),
        pytest.param(child(version="6"), applied(), True, id="somebody wrote since"),
        pytest.param(child(), None, False, id="after a restart: it is what is wanted"),
        pytest.param(child(was_edited=True), None, True, id="after a restart: somebody wrote after us"),
        pytest.param(child(digest=None), None, True, id="after a restart: it is not ours yet"),
    ],
)
def test_needs_apply(found: ChildView | None, last: Applied | None, expected: bool) -> None:
    assert needs_apply(WANTED, found, last, now_s=1.0) is expected


def test_what_was_made_and_is_not_seen_for_a_minute_was_deleted_unseen() -> None:
    assert not needs_apply(WANTED, None, applied(before=None), now_s=59.0)
    assert needs_apply(WANTED, None, applied(before=None), now_s=60.0)
    assert not needs_apply(WANTED, child(), applied(), now_s=60.0)


def managed(manager: str, time: str, subresource: str | None = None) -> dict[str, Any]:
    entry = {"manager": manager, "time": time}
    return entry if subresource is None else {**entry, "subresource": subresource}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([managed("semipd-operator", "T2")], False, id="nobody else"),
        pytest.param([managed("semipd-operator", "T2"), managed("kubectl", "T1")], False, id="before us"),
        pytest.param([managed("semipd-operator", "T2"), managed("kubectl", "T3")], True, id="after us"),
        pytest.param(
            [managed("semipd-operator", "T2"), managed("kube-controller-manager", "T3", "status")],
            False,
            id="its status alone",
        ),
        pytest.param([managed("kubectl", "T3")], True, id="we never wrote it"),
    ],
)
def test_an_edit_by_somebody_else_is_seen(entries: list[dict[str, Any]], expected: bool) -> None:
    found = {"metadata": {"name": "chat", "resourceVersion": "9", "managedFields": entries}}
    assert view_child(found).was_edited is expected


def test_a_version_is_the_generation_where_there_is_one() -> None:
    metadata = {"name": "chat", "resourceVersion": "9"}
    assert view_child({"metadata": metadata}).version == "9"
    assert view_child({"metadata": {**metadata, "generation": 2}}).version == "2"


class Client:
    """Makes what it is asked for; `meanwhile` happens before it answers."""

    def __init__(self) -> None:
        self.meanwhile = lambda: None

    async def list(self, *_: Any, **__: Any) -> AsyncIterator[dict[str, Any]]:
        for nothing in ():
            yield nothing

    async def apply(self, manifest: Any, **_: Any) -> dict[str, Any]:
        self.meanwhile()
        return {"metadata": {"name": "chat", "namespace": "team-a", "generation": 1}}


ROLE = {"kind": "Role", "metadata": {"name": "chat", "namespace": "team-a"}}


@pytest.mark.parametrize("is_deleted_meanwhile", [False, True])
async def test_what_is_deleted_before_its_write_is_answered_is_written_again(
    is_deleted_meanwhile: bool,
) -> None:
    client = Client()
    applier = Applier(client, lambda: True)
    if is_deleted_meanwhile:
        client.meanwhile = lambda: applier.forget(("Role", "team-a", "chat"))
    assert await applier.apply(ROLE, None)
    client.meanwhile = lambda: None
    assert await applier.apply(ROLE, None) is is_deleted_meanwhile
    assert not await applier.apply(ROLE, None)
