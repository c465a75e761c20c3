"""When the statuses of classes are written: by the leader, once everything is known, and seldom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from lightkube import ApiError

from semipd_operator import kinds
from semipd_operator.apply.applier import Applier, Fenced
from semipd_operator.class_statuses import ClassStatuses
from semipd_operator.observe.listed import Listed
from semipd_operator.observe.world import World
from semipd_shell.informer import Key

SPEC = {"model": {"uri": "builtin://smollm2-135m"}}


def found(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "generation": 1}
    if kind == "SemiPDService":
        metadata["namespace"] = "team-a"
    return {"apiVersion": "semipd.io/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def refusal(code: int) -> ApiError:
    class Response:
        @staticmethod
        def json() -> dict[str, Any]:
            return {"code": code, "message": "said so", "reason": "", "status": "Failure"}

    return ApiError(response=Response())  # type: ignore[arg-type]


class Server:
    """Holds classes and services; keeps what is written, and refuses the classes named in `refuses`."""

    def __init__(self) -> None:
        self.classes = {name: found("SemiPDClass", name) for name in ("gold", "iron")}
        self.services = {"chat": found("SemiPDService", "chat", **SPEC, classRef={"name": "gold"})}
        self.written: list[tuple[str, dict[str, Any]]] = []
        self.lists = 0
        self.refuses: dict[str, int] = {}

    async def list(self, resource: Any, **_: object) -> AsyncIterator[dict[str, Any]]:
        self.lists += 1
        for each in (self.classes if resource is kinds.CLASS else self.services).values():
            yield each

    async def apply(self, manifest: Any, *, name: str, **_: object) -> dict[str, Any]:
        await asyncio.sleep(0)
        if name in self.refuses:
            raise refusal(self.refuses[name])
        self.classes[name]["status"] = manifest["status"]
        self.written.append((name, manifest["status"]))
        return {**self.classes[name]}


class Cluster:
    """A server, what an operator knows of it, and that operator's part for classes."""

    def __init__(self) -> None:
        self.server = Server()
        self.is_leading = True
        self.world = World(self.server, None, lambda _key: None)  # type: ignore[arg-type]
        self.listed = Listed(self.server, self.world)  # type: ignore[arg-type]
        self.applier = Applier(self.server, lambda: self.is_leading)  # type: ignore[arg-type]
        self.statuses = ClassStatuses(self.world, self.applier, self.listed, every_s=0.0)

    def see(self) -> None:
        """As kopf brings it."""
        for name, each in self.server.classes.items():
            self.world.note_class(name, {**each})
        for name, each in self.server.services.items():
            self.world.note_service(Key("team-a", name), {**each})

    def counts(self) -> dict[str, int]:
        return {name: status["services"] for name, status in self.server.written}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


async def test_every_class_is_written_once(cluster: Cluster) -> None:
    cluster.see()
    await cluster.statuses.look()
    assert cluster.counts() == {"gold": 1, "iron": 0}
    assert len(cluster.server.written) == cluster.applier.writes == 2
    cluster.see()
    await cluster.statuses.look()
    assert len(cluster.server.written) == 2


async def test_who_does_not_lead_does_not_even_look(cluster: Cluster) -> None:
    cluster.see()
    cluster.is_leading = False
    await cluster.statuses.look()
    assert (cluster.server.lists, cluster.server.written) == (0, [])


async def test_every_write_is_fenced(cluster: Cluster) -> None:
    cluster.is_leading = False
    with pytest.raises(Fenced):
        await cluster.applier.apply_class_status("gold", {"services": 1})
    assert cluster.server.written == []


@pytest.mark.parametrize("missing", ["services", "classes"])
async def test_nothing_is_written_before_everything_is_known(missing: str, cluster: Cluster) -> None:
    held = dict(getattr(cluster.server, missing))
    getattr(cluster.server, missing).clear()
    cluster.see()
    getattr(cluster.server, missing).update(held)
    await cluster.statuses.look()
    assert cluster.server.written == []
    cluster.see()
    await cluster.statuses.look()
    assert cluster.counts() == {"gold": 1, "iron": 0}


async def test_what_there_is_is_asked_once_for_each_start_of_kopf(cluster: Cluster) -> None:
    cluster.see()
    for _ in range(3):
        await cluster.statuses.look()
        cluster.see()
    assert cluster.server.lists == 2
    cluster.listed.begin_anew()
    for name in list(cluster.world.services):
        cluster.world.note_service(name, None)
    await cluster.statuses.look()
    assert cluster.counts() == {"gold": 1, "iron": 0}
    cluster.see()
    await cluster.statuses.look()
    assert len(cluster.server.written) == 2


@pytest.mark.parametrize(
    ("code", "raises"), [pytest.param(404, False, id="it is gone"), pytest.param(422, True, id="refused")]
)
async def test_a_class_that_fails_keeps_no_other_waiting(code: int, raises: bool, cluster: Cluster) -> None:
    cluster.see()
    cluster.server.refuses["gold"] = code
    if raises:
        with pytest.raises(ApiError):
            await cluster.statuses.look()
    else:
        await cluster.statuses.look()
    assert cluster.counts() == {"iron": 0}


async def test_what_fails_is_tried_again_without_any_news(cluster: Cluster) -> None:
    cluster.see()
    cluster.server.refuses["gold"] = 500
    cluster.statuses.note()
    running = asyncio.create_task(cluster.statuses.run())
    try:
        async with asyncio.timeout(90):
            while "iron" not in cluster.counts():
                await asyncio.sleep(0)
            cluster.server.refuses.clear()
            while "gold" not in cluster.counts():
                await asyncio.sleep(0)
    finally:
        running.cancel()
    assert cluster.counts() == {"gold": 1, "iron": 0}


async def test_a_crowd_of_changes_is_one_write(cluster: Cluster) -> None:
    """All that comes before the look is in it."""
    cluster.see()
    await cluster.statuses.look()
    cluster.see()
    before = len(cluster.server.written)
    for number in range(100):
        service = found("SemiPDService", f"chat-{number}", **SPEC, classRef={"name": "gold"})
        cluster.world.note_service(Key("team-a", f"chat-{number}"), service)
        cluster.statuses.note()
    running = asyncio.create_task(cluster.statuses.run())
    try:
        async with asyncio.timeout(90):
            while len(cluster.server.written) == before:
                await asyncio.sleep(0)
    finally:
        running.cancel()
    assert [(name, status["services"]) for name, status in cluster.server.written[before:]] == [("gold", 101)]


def test_a_count_in_its_status_is_no_reason_to_look_at_services_again() -> None:
    dirty: list[Key | None] = []
    noted: list[None] = []
    world = World(None, None, dirty.append, on_class=lambda: noted.append(None))  # type: ignore[arg-type]
    cls = found("SemiPDClass", "gold")
    world.note_class("gold", cls)
    world.note_class("gold", {**cls, "status": {"services": 4}})
    assert (len(dirty), len(noted)) == (1, 2)
    world.note_class("gold", {**cls, "spec": {"gpuBudget": 4}})
    assert (len(dirty), len(noted)) == (2, 3)
    world.note_class("gold", None)
    assert (len(dirty), len(noted)) == (3, 4)
    assert world.classes == {}
