"""Kinds of other projects come and go while the operator runs; nobody restarts it for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from played_turns import refusal

from semipd_operator import optional_kinds
from semipd_operator.observe.world import World
from semipd_operator.optional_kinds import OptionalKinds
from semipd_operator.plan.naming import SERVICE_LABEL
from semipd_operator.plan.optional_children import INFERENCE_POOL, POD_MONITOR
from semipd_shell.informer import Key

POD_MONITORS, POOLS = "podmonitors.monitoring.coreos.com", "inferencepools.inference.networking.k8s.io"
KEY = Key("team-a", "chat")
MONITOR = {
    "kind": "PodMonitor",
    "metadata": {
        "name": KEY.name,
        "namespace": KEY.namespace,
        "resourceVersion": "1",
        "labels": {SERVICE_LABEL: KEY.name},
    },
}


class Pages:
    """What lightkube's `list` gives. `answers`: without, it never does."""

    resourceVersion = "1"  # noqa: N815

    def __init__(self, answers: bool) -> None:
        self._answers = answers

    async def __aiter__(self) -> AsyncIterator[dict[str, Any]]:
        if not self._answers:
            await asyncio.Event().wait()
        yield MONITOR


class Server:
    """With the CustomResourceDefinitions `there`, of which `silent` ones cannot be listed."""

    def __init__(self, *there: str, code: int = 404) -> None:
        self.there, self.code = set(there), code
        self.is_silent = False

    async def get(self, _: object, name: str) -> dict[str, Any]:
        if name not in self.there:
            raise refusal(self.code, f"{name} not found")
        return {}

    def list(self, _: object, **__: object) -> Pages:
        return Pages(answers=not self.is_silent)

    async def watch(self, _: object, **__: object) -> AsyncIterator[Any]:
        await asyncio.Event().wait()
        yield


def looking(server: Server, namespace: str | None = None) -> tuple[OptionalKinds, World]:
    world = World(server, namespace, lambda _: None)  # type: ignore[arg-type]
    return OptionalKinds(server, world, namespace), world  # type: ignore[arg-type]


async def test_a_kind_is_found_when_it_comes_and_forgotten_when_it_goes() -> None:
    server = Server()
    found, world = looking(server)
    assert (await found.look(), found.found) == (False, ())
    server.there = {POD_MONITORS}
    assert (await found.look(), found.found) == (True, (POD_MONITOR,))
    assert ("PodMonitor", KEY.name) in world.children(KEY), "it is listed before anything is planned with it"
    assert not await found.look()
    server.there = {POOLS}
    assert (await found.look(), found.found) == (True, (INFERENCE_POOL,))
    assert ("PodMonitor", KEY.name) not in world.children(KEY)
    server.there = {POD_MONITORS, POOLS}
    assert await found.look()
    assert set(found.found) == {POD_MONITOR, INFERENCE_POOL}


async def test_a_kind_that_cannot_be_listed_counts_as_not_there_and_holds_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(optional_kinds, "LISTED_TIMEOUT_S", 0.01)
    server = Server(POD_MONITORS)
    server.is_silent = True
    found, world = looking(server)
    assert (await found.look(), found.found) == (False, ())
    assert world.children(KEY) == {}
    server.is_silent = False
    monkeypatch.setattr(optional_kinds, "LISTED_TIMEOUT_S", 60.0)
    assert (await found.look(), found.found) == (True, (POD_MONITOR,))


async def test_an_operator_of_one_namespace_that_may_not_look_has_none_and_a_server_without_roles_says_nothing() -> (
    None
):
    namespaced, _ = looking(Server(code=403), KEY.namespace)
    assert (await namespaced.look(), namespaced.found) == (False, ())
    whole, _ = looking(Server(code=403))
    with pytest.raises(type(refusal(403, ""))):
        await whole.look()
