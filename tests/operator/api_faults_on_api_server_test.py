"""The operator behind a faulty API: each service ends up as it would without the fault, and nobody is asked too often."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import faulty_api
import httpx2
import injected_faults
import pytest
from api_server import API_SERVER_IS_BUILT
from faulty_api import Fault, FaultyApi, Seen, is_watch, is_write
from injected_faults import HALF_A_LINE, error_event, says, streams
from operator_process import Agents, Cluster, OperatorProcess, service_manifest
from running_service import free_port
from settled_service import same_in_the_end, settle

from semipd_operator import kinds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
CALM, BYSTANDER = "calm", "bystander"  # settled without a fault; one that loses a child during each
WATCHES = len(kinds.WATCHED) + 4  # pods, partitions, and by kopf services and classes
QUIET_S = 2.0


@pytest.fixture(scope="module")
def api(kubeconfig: Path) -> Iterator[FaultyApi]:
    with faulty_api.faulty_api(kubeconfig) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def operator(
    api: FaultyApi, cluster: Cluster, agents: Agents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """Through the proxy, with two services that are settled already."""
    directory = tmp_path_factory.mktemp("operator")
    kubeconfig = api.write_kubeconfig(directory / "kubeconfig")
    with OperatorProcess(kubeconfig, directory, agents.port, free_port()) as running:
        for name in (CALM, BYSTANDER):
            settle(cluster, name)
        yield running


@dataclass(frozen=True, kw_only=True)
class Case:
    """`lasts_s` 0: until what happens meanwhile has ended, which it can because the fault strikes each path `times` alone.

    `says`: in the operator's log. `may_ask`: how often each path may be asked while it lasts, beside once a second.
    """

    fault: Fault | None
    lasts_s: float = 0.0
    begin: Callable[[FaultyApi], None] = lambda _: None
    says: str = ""
    may_ask: int = 12


ENDS = FaultyApi.end_watches
SHORT_S = 3.0  # less than what the lease is held for without a renewal

CASES = {
    "writes that lose against another one": Case(
        fault=Fault(act=says(409, "Conflict"), matches=is_write, times=2), says="to be tried again"
    ),
    "answers that are lost after the write": Case(
        fault=Fault(act=injected_faults.loses_the_answer, matches=is_write, times=1), says="to be tried again"
    ),
    "writes that fail with 500": Case(
        fault=Fault(act=says(500, "InternalError"), matches=is_write, times=2), says="to be tried again"
    ),
    "a server that is too busy": Case(
        fault=Fault(act=says(429, "TooManyRequests", Retry_After="3")),
        lasts_s=SHORT_S,
        begin=ENDS,
        says="watch ended",
    ),
    "503 in words": Case(
        fault=Fault(act=says(503, "ServiceUnavailable")), lasts_s=SHORT_S, begin=ENDS, says="watch ended"
    ),
    "503 without a word": Case(
        fault=Fault(act=injected_faults.says_503_without_a_type),
        lasts_s=SHORT_S,
        begin=ENDS,
        says="watch ended",
    ),
    "pages that are no JSON": Case(
        fault=Fault(act=injected_faults.says_page(200)), lasts_s=SHORT_S, begin=ENDS, says="watch ended"
    ),
    "connections that are reset": Case(
        fault=Fault(act=injected_faults.resets), lasts_s=SHORT_S, begin=ENDS, says="watch ended"
    ),
    "answers after a second": Case(fault=Fault(act=injected_faults.delays(1.0)), lasts_s=SHORT_S, begin=ENDS),
    "a version that is gone, by status": Case(
        fault=Fault(act=says(410, "Expired"), matches=is_watch),
        lasts_s=SHORT_S,
        begin=ENDS,
        says="watch ended",
    ),
    "a version that is gone, by event": Case(
        fault=Fault(act=streams(error_event(410, "Expired")), matches=is_watch),
        lasts_s=SHORT_S,
        begin=ENDS,
        says="watch ended",
    ),
    "an error within a watch": Case(
        fault=Fault(act=streams(error_event(500, "InternalError")), matches=is_watch),
        lasts_s=SHORT_S,
        begin=ENDS,
        says="watch ended",  # kopf, which paces itself, may not have asked within that time
    ),
    "watches that end as they begin": Case(
        fault=Fault(act=streams(), matches=is_watch), lasts_s=SHORT_S, begin=ENDS, says="watch ended"
    ),
    "watches that end in half a line": Case(
        fault=Fault(act=streams(HALF_A_LINE), matches=is_watch, times=2), begin=ENDS, says="kopf begins anew"
    ),
    "watches that are reset in half a line": Case(
        fault=Fault(act=injected_faults.resets_in_the_middle_of_a_line, matches=is_watch, times=2),
        begin=ENDS,
        says="watch ended",
    ),
    "events that are torn in two": Case(fault=None, begin=FaultyApi.tear_watches, says="kopf begins anew"),
}


def path_of(seen: Seen) -> tuple[str, str, bool, str]:
    return seen.method, seen.path, seen.is_watch, seen.agent.partition("/")[0]


def lose_a_child(cluster: Cluster) -> str:
    """Its UID."""
    found = cluster.wait(lambda: cluster.get("Service", BYSTANDER), "it has one to lose")
    cluster.delete("Service", BYSTANDER)
    return str(found["metadata"]["uid"])


def has_another(cluster: Cluster, kind: str, name: str, uid: str) -> bool:
    found = cluster.get(kind, name)
    return found is not None and found["metadata"]["uid"] != uid


def is_quiet(api: FaultyApi) -> bool:
    return not api.since(time.monotonic() - QUIET_S, is_write)


@pytest.mark.parametrize("name", CASES)
def test_the_operator_gets_through(
    name: str, api: FaultyApi, operator: OperatorProcess, cluster: Cluster
) -> None:
    case, service = CASES[name], "under-" + "-".join(name.lower().replace(",", "").split())
    cluster.wait(lambda: api.open_watches >= WATCHES, "everything is watched")
    log, began_s = len(operator.log()), time.monotonic()
    with api.fault(case.fault) if case.fault else nullcontext():
        case.begin(api)
        lost = lose_a_child(cluster)
        if case.lasts_s:
            cluster.apply(service_manifest(service, replicas=1))
            time.sleep(case.lasts_s)
            cluster.wait(lambda: api.hits, "the fault strikes")
        else:
            settle(cluster, service)
    asked = Counter(path_of(each) for each in api.since(began_s) if each.at_s < began_s + case.lasts_s)
    if case.lasts_s:
        settle(cluster, service)
    cluster.wait(lambda: has_another(cluster, "Service", BYSTANDER, lost), "the lost child is back")
    cluster.wait(lambda: is_quiet(api), "nothing is left to be done")

    same_in_the_end(cluster, service, CALM)
    same_in_the_end(cluster, BYSTANDER, CALM)
    assert cluster.events(service).keys() <= cluster.events(CALM).keys(), "nothing was said that was not so"
    cluster.wait(lambda: case.says in operator.log()[log:], f"it says {case.says}")
    often = {path: count for path, count in asked.items() if count > case.may_ask + case.lasts_s}
    assert not often, "who is in trouble is asked ever more seldom"
    assert operator.process.poll() is None
    assert httpx2.get(f"{operator.health}/healthz", timeout=10).text == "ok"
