"""The operator without its API server: who may write, what is asked meanwhile, and what is done about what nobody saw."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import faulty_api
import httpx2
import injected_faults
import pytest
from aiohttp import web
from api_server import API_SERVER_IS_BUILT
from faulty_api import Answer, Fault, FaultyApi, is_lease, is_write
from injected_faults import says, streams
from operator_process import Agents, Cluster, OperatorProcess, service_manifest
from running_service import free_port
from settled_service import CHILDREN, is_ready, same_in_the_end, settle

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
OUTAGE_S = 30.0
STORM_S = 8.0

Start = Callable[[FaultyApi, str], OperatorProcess]


@pytest.fixture
def apis(kubeconfig: Path) -> Iterator[list[FaultyApi]]:
    """Two ways to the same API server."""
    with faulty_api.faulty_api(kubeconfig) as one, faulty_api.faulty_api(kubeconfig) as other:
        yield [one, other]


@pytest.fixture
def start(agents: Agents, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as running:

        def start_operator(api: FaultyApi, identity: str) -> OperatorProcess:
            kubeconfig = api.write_kubeconfig(tmp_path / f"kubeconfig-{identity}")
            return running.enter_context(
                OperatorProcess(kubeconfig, tmp_path, agents.port, free_port(), identity)
            )

        yield start_operator


def metric(operator: OperatorProcess, name: str) -> float:
    """0 where there is no such series, or nobody to ask, yet."""
    try:
        return operator.metric(name)
    except (StopIteration, httpx2.TransportError):
        return 0.0


def test_an_outage_costs_the_lead_and_what_was_deleted_meanwhile_does_not_come_back(
    apis: list[FaultyApi], start: Start, cluster: Cluster
) -> None:
    api, _ = apis
    operator = start(api, "first")
    for name in ("stays", "goes"):
        settle(cluster, name)
    services = operator.metric("semipd_operator_services")
    began_s = time.monotonic()
    api.refuse()
    cluster.delete("SemiPDService", "goes")
    for kind in CHILDREN:  # as the garbage collector would
        cluster.delete(kind, "goes")
    cluster.delete("Service", "stays")
    cluster.wait(lambda: "does not lead" in operator.log(), "the lead is given up")
    assert operator.metric("semipd_operator_leads") == 0
    time.sleep(max(0.0, OUTAGE_S - (time.monotonic() - began_s)))
    assert httpx2.get(f"{operator.health}/healthz", timeout=10).text == "ok"
    refused = metric(operator, 'semipd_operator_api_answers{code="ConnectError"}')
    assert 0 < refused < 8 * OUTAGE_S, "of two dozen watches, turns and the lease"
    # What was watched is too old by now, as after a new start of the API server.
    with api.fault(
        Fault(act=streams(injected_faults.error_event(410, "Expired")), matches=faulty_api.is_watch, times=1)
    ):
        api.accept()
        cluster.wait(lambda: cluster.get("Service", "stays"), "it does its work again")
        cluster.wait(lambda: operator.metric("semipd_operator_leads") == 1, "it leads again")
    cluster.wait(
        lambda: operator.metric("semipd_operator_services") == services - 1, "the deleted one is forgotten"
    )
    assert [kind for kind in CHILDREN if cluster.get(kind, "goes")] == []
    assert operator.process.poll() is None


def test_a_leader_that_cannot_renew_has_stopped_writing_before_another_begins(
    apis: list[FaultyApi], start: Start, cluster: Cluster
) -> None:
    to_first, to_second = apis
    first = start(to_first, "first")
    settle(cluster, "fenced")
    second = start(to_second, "second")
    cluster.wait(lambda: metric(second, "semipd_operator_services") >= 1, "the second watches")
    replicas = 1
    with to_first.fault(Fault(act=says(503, "ServiceUnavailable"), matches=is_lease)):

        def follows() -> bool:
            """There is always something to write."""
            nonlocal replicas
            replicas = replicas % 9 + 1
            cluster.scale("fenced", replicas)
            return bool(to_second.since(0, is_write))

        cluster.wait(follows, "the second writes")
        cluster.scale("fenced", 3)
        cluster.wait(lambda: cluster.get("Deployment", "fenced")["spec"]["replicas"] == 3, "it follows")
        assert to_first.since(0, is_write)[-1].at_s < to_second.since(0, is_write)[0].at_s
        assert "does not lead" in first.log()
        assert first.metric("semipd_operator_leads") == 0
        assert second.metric("semipd_operator_leads") == 1
    healed_s = time.monotonic()
    cluster.wait(lambda: to_first.since(healed_s, is_lease), "the first asks for the lease")
    cluster.scale("fenced", 4)
    cluster.wait(lambda: cluster.get("Deployment", "fenced")["spec"]["replicas"] == 4, "one of them follows")
    assert to_first.since(healed_s, is_write) == [], "who has lost the lead does not take it back"
    assert (first.process.poll(), second.process.poll()) == (None, None)


def storm(seed: int) -> faulty_api.Act:
    """Two of three requests go wrong, each in another way."""
    rng = random.Random(seed)
    faults = [
        says(409, "Conflict"),
        says(429, "TooManyRequests", Retry_After="1"),
        says(500, "InternalError"),
        says(504, "Timeout"),
        injected_faults.says_503_without_a_type,
        injected_faults.says_page(200),
        injected_faults.says_page(502),
        injected_faults.resets,
        injected_faults.resets_in_the_middle_of_a_line,
        injected_faults.loses_the_answer,
        injected_faults.delays(0.5),
    ]

    async def act(answer: Answer) -> web.StreamResponse:
        if rng.random() < 1 / 3:
            return await answer.forward()
        return await rng.choice(faults)(answer)

    return act


def test_an_operator_starts_in_a_storm_and_works_when_it_is_over(
    apis: list[FaultyApi], start: Start, cluster: Cluster
) -> None:
    api, _ = apis
    name, quiet = "stormy", "quiet"
    with api.fault(Fault(act=storm(seed=1))):
        operator = start(api, "first")
        cluster.apply(service_manifest(name, replicas=1))
        cluster.wait(lambda: api.hits, "it has begun")
        time.sleep(STORM_S)
        assert operator.process.poll() is None, operator.log()[-2000:]
    settle(cluster, name)
    settle(cluster, quiet)
    cluster.wait(lambda: is_ready(cluster, name), "it stays ready")
    same_in_the_end(cluster, name, quiet)
    assert operator.process.poll() is None
