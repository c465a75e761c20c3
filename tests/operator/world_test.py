"""What the world makes of what informers see."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from semipd_operator.apply.applier import Applier
from semipd_operator.observe.world import World
from semipd_operator.plan.naming import labels
from semipd_shell.informer import Key

ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "Role",
    "metadata": {"name": "chat", "namespace": "team-a", "labels": labels("chat")},
}
KEY = Key("team-a", "chat")


class Server:
    """Takes every manifest."""

    def __init__(self) -> None:
        self.applied = 0

    async def list(self, *_: object, **__: object) -> AsyncIterator[dict[str, Any]]:
        for nothing in ():
            yield nothing

    async def apply(self, manifest: Any, **_: object) -> dict[str, Any]:
        self.applied += 1
        return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self.applied)}}


def test_a_child_that_is_deleted_before_a_turn_has_seen_it_is_made_again() -> None:
    server = Server()
    applier = Applier(server, lambda: True)  # type: ignore[arg-type]
    world = World(
        None,  # type: ignore[arg-type]
        None,
        lambda _key: None,
        lambda kind, key: applier.forget((kind, key.namespace, key.name)),
    )

    async def turn() -> bool:
        return await applier.apply(ROLE, world.children(KEY).get(("Role", "chat")))

    assert asyncio.run(turn())
    assert not asyncio.run(turn()), "the informer has yet to see it"
    world._note("Role", KEY, None, {**ROLE, "view": None})
    world._note("Role", KEY, {**ROLE, "view": None}, None)
    assert asyncio.run(turn())
    assert server.applied == 2
