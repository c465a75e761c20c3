"""An agent's partition behind a faulty API: the last spec is taken in the end and reported, and nobody is asked too often."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faulty_api
import injected_faults
import pytest
from api_server import API_SERVER_IS_BUILT, api_server_with_crds
from faulty_api import Fault, FaultyApi, is_watch, is_write
from injected_faults import HALF_A_LINE, error_event, says, streams
from lightkube import Client, KubeConfig

from semipd_agent.kubernetes.partition_source import PARTITION, PartitionSource
from semipd_agent.kubernetes.status_writer import StatusWriter
from semipd_core.agent_config import WishWire
from semipd_core.api.partition import PodPartitionStatus
from semipd_shell import informer
from semipd_shell.api_client import open_api_client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
NAMESPACE, POD = "team-a", "chat-1"
WAIT_S = 90.0


@dataclass
class Sink:
    """What the agent would do, in the order in which it was asked to."""

    taken: list[WishWire] = field(default_factory=list)

    def take(self, wish: WishWire, _: object) -> None:
        self.taken.append(wish)

    @property
    def decision(self) -> str | None:
        return self.taken[-1].decision_id if self.taken else None


class Operator:
    """Its side of the partition, past the proxy."""

    def __init__(self, kubeconfig: Path) -> None:
        self.client = Client(KubeConfig.from_file(kubeconfig), trust_env=False)
        self._count = 0

    def ask(self) -> str:
        """Another split; its decision's ID."""
        self._count += 1
        spec = {
            "target": {"prefillPercent": 40 + self._count, "decodePercent": 100},
            "decisionID": f"cluster-{self._count}",
            "reason": "Test",
            "message": "asked by a test",
        }
        manifest = {
            "apiVersion": "semipd.io/v1alpha1",
            "kind": "SemiPDPartition",
            "metadata": {"name": POD, "namespace": NAMESPACE},
            "spec": spec,
        }
        self.client.apply(PARTITION(manifest), field_manager="operator", force=True)
        return f"cluster-{self._count}"

    def status(self) -> dict[str, Any]:
        return dict(self.client.get(PARTITION, POD, namespace=NAMESPACE).get("status") or {})


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with api_server_with_crds(tmp_path_factory.mktemp("api-server")) as path:
        yield path


@pytest.fixture
def operator(kubeconfig: Path) -> Iterator[Operator]:
    asking = Operator(kubeconfig)
    yield asking
    asking.client.close()


@pytest.fixture
def api(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyApi]:
    with faulty_api.faulty_api(kubeconfig) as proxy:
        monkeypatch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(tmp_path / "kubeconfig")))
        yield proxy


@asynccontextmanager
async def following() -> AsyncIterator[Sink]:
    """The agent's two tasks. Raises: what ended one of them."""
    client, sink = open_api_client(), Sink()
    source = PartitionSource(client, NAMESPACE, POD)

    def build(old: PodPartitionStatus, _: str) -> PodPartitionStatus:
        return PodPartitionStatus(
            observed_generation=source.generation,
            observed_decision_id=sink.decision,
            last_heartbeat_time=old.last_heartbeat_time,
        )

    writer = StatusWriter(client, NAMESPACE, POD, build, lambda: source.found)
    tasks = [asyncio.create_task(source.run(sink)), asyncio.create_task(writer.run())]
    try:
        yield sink
        assert not any(task.done() for task in tasks), "nothing ends them"
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await client.aclose()


async def until(is_done: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + WAIT_S
    while not await asyncio.to_thread(is_done):
        assert time.monotonic() < deadline_s, f"not within {WAIT_S:.0f} s: {what}"
        await asyncio.sleep(0.1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """`lasts_s` 0: until the next spec has been taken."""

    fault: Fault | None
    lasts_s: float = 2.0
    begin: Callable[[FaultyApi], None] = FaultyApi.end_watches


CASES = {
    "a server that is too busy": Case(fault=Fault(act=says(429, "TooManyRequests", Retry_After="3"))),
    "503 in the server's words": Case(fault=Fault(act=says(503, "ServiceUnavailable"))),
    "503 without a word": Case(fault=Fault(act=injected_faults.says_503_without_a_type)),
    "pages that are no JSON": Case(fault=Fault(act=injected_faults.says_page(200))),
    "connections that are reset": Case(fault=Fault(act=injected_faults.resets)),
    "a version that is gone, by status": Case(fault=Fault(act=says(410, "Expired"), matches=is_watch)),
    "a version that is gone, by event": Case(
        fault=Fault(act=streams(error_event(410, "Expired")), matches=is_watch)
    ),
    "an error within a watch": Case(
        fault=Fault(act=streams(error_event(500, "InternalError")), matches=is_watch)
    ),
    "watches that end as they begin": Case(fault=Fault(act=streams(), matches=is_watch)),
    "watches that end in half a line": Case(fault=Fault(act=streams(HALF_A_LINE), matches=is_watch)),
    "events that are torn in two": Case(fault=None, lasts_s=0.0, begin=FaultyApi.tear_watches),
    "watches that say nothing more": Case(fault=None, lasts_s=0.0, begin=FaultyApi.stall_watches),
    "writes that lose against another one": Case(
        fault=Fault(act=says(409, "Conflict"), matches=is_write, times=2), lasts_s=0.0
    ),
    "answers that are lost after the write": Case(
        fault=Fault(act=injected_faults.loses_the_answer, matches=is_write, times=1), lasts_s=0.0
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_last_spec_is_taken_and_reported(
    name: str, api: FaultyApi, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = CASES[name]
    monkeypatch.setattr(informer, "STALL_S", 3.0)
    first = operator.ask()
    async with following() as sink:
        await until(lambda: operator.status().get("observedDecisionID") == first, "the first is reported")
        with api.fault(case.fault) if case.fault else nullcontext():
            began_s = time.monotonic()
            await asyncio.to_thread(case.begin, api)
            last = operator.ask()
            if case.lasts_s:
                await asyncio.sleep(case.lasts_s)
            else:
                await until(
                    lambda: operator.status().get("observedDecisionID") == last, "the last is reported"
                )
        asked = len([each for each in api.since(began_s) if each.at_s < began_s + case.lasts_s])
        await until(lambda: operator.status().get("observedDecisionID") == last, "the last is reported")
    assert case.fault is None or api.hits, "the fault has struck"
    assert [wish.decision_id for wish in sink.taken] == [first, last], "each is taken once"
    assert asked < 30, "who is in trouble is asked ever more seldom"
