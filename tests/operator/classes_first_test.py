"""No service is planned for before all classes are known: under built-in defaults it would be another one."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from played_turns import refusal

from semipd_operator import __main__ as main
from semipd_operator import kinds
from semipd_operator.settings import OperatorSettings
from semipd_shell.informer import Key

KEY = Key("team-a", "chat")
CLASS = {"apiVersion": "semipd.io/v1alpha1", "kind": "SemiPDClass", "metadata": {"name": "cpu"}, "spec": {}}


class Server:
    """Has one class, and answers with `error` where there is one."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    async def list(self, resource: Any, **_: object) -> AsyncIterator[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        if resource is kinds.CLASS:
            yield CLASS


class Reconciler:
    def __init__(self) -> None:
        self.turns: list[Key] = []

    async def reconcile(self, key: Key) -> None:
        self.turns.append(key)


def leading_operator(
    server: Server, monkeypatch: pytest.MonkeyPatch, namespace: str | None = None
) -> tuple[main.Operator, Reconciler]:
    monkeypatch.setattr(main, "CLASSES_EVERY_S", 0.001)
    monkeypatch.setattr(main, "CLASSES_RETRY_S", 0.001)
    settings = OperatorSettings(engine_image="semipd/engine:1", watch_namespace=namespace)
    operator = main.Operator(settings, server, None, Counter())  # type: ignore[arg-type]
    reconciler = Reconciler()
    operator._reconciler = reconciler  # type: ignore[assignment]
    monkeypatch.setattr(operator.election, "is_leading", lambda: True)
    operator.world.note_service(KEY, {"metadata": {"name": KEY.name, "namespace": KEY.namespace}, "spec": {}})
    return operator, reconciler


async def until_noted(operator: main.Operator) -> None:
    operator.queue._waiting.clear()
    waiting = asyncio.create_task(operator._await_classes())
    async with asyncio.timeout(60):
        while not len(operator.queue):
            await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_service_waits_for_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    operator, reconciler = leading_operator(server, monkeypatch)
    await operator._reconcile(KEY)
    server.error = refusal(429, "slow down")
    with pytest.raises(type(server.error)):
        await operator.listed.look_for_classes()
    server.error = None
    assert not await operator.listed.look_for_classes(), "kopf has not brought it yet"
    await operator._reconcile(KEY)
    assert reconciler.turns == []
    operator.world.note_class("cpu", CLASS)
    await until_noted(operator)
    await operator._reconcile(KEY)
    assert reconciler.turns == [KEY]


async def test_a_world_that_is_emptied_is_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    operator, reconciler = leading_operator(Server(), monkeypatch)
    operator.world.note_class("cpu", CLASS)
    await until_noted(operator)
    operator.kopf_watch._forget()
    await operator._reconcile(KEY)
    assert reconciler.turns == []


async def test_an_operator_of_a_namespace_that_may_not_list_classes_goes_on_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    server.error = refusal(403, "semipdclasses is forbidden")
    operator, reconciler = leading_operator(server, monkeypatch, KEY.namespace)
    await until_noted(operator)
    await operator._reconcile(KEY)
    assert reconciler.turns == [KEY]


async def test_a_server_that_has_no_roles_yet_has_not_said_that_there_are_no_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server()
    server.error = refusal(403, "semipdclasses is forbidden")
    operator, reconciler = leading_operator(server, monkeypatch)
    with pytest.raises(type(server.error)):
        await operator.listed.look_for_classes()
    await operator._reconcile(KEY)
    assert reconciler.turns == []
