"""The parts of `semipd bench scale` that need no API server."""

import asyncio
import dataclasses
import json
import os
import random
from statistics import fmean

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semipd_bench.scale.agent_server import AgentServer, Conduct
from semipd_bench.scale.agent_status import status_of
from semipd_bench.scale.api_requests import by_writer, parse_cpu_s, parse_requests, writes_between
from semipd_bench.scale.fleet import (
    Fleet,
    PodName,
    build_class,
    build_pod,
    build_service,
    parse_pod_name,
    parse_service_name,
    pod_name,
    service_name,
)
from semipd_bench.scale.meter import Rounds
from semipd_bench.scale.operator_process import OperatorFigures, parse_figures
from semipd_bench.scale.processes import parse_usage, read_usage
from semipd_bench.scale.report import NUMBER_HEAD, scale_numbers, scale_rows
from semipd_bench.scale.result import FromNothing, Outage, Reaction, Restart, ScaleResult, Span, judge_scale
from semipd_bench.scale.traffic import HEAVY, SLO, STEADY, EngineTraffic, decode_step_us, draw_slot
from semipd_bench.service import free_port
from semipd_core.agent_config import PartitionWire, WishWire
from semipd_core.api import codec
from semipd_core.api.partition import PodPartitionStatus
from semipd_core.cluster.loop import initial_state, step
from semipd_core.slo.pooled import WindowState
from semipd_core.telemetry import SLOTS_KEPT, EngineReport
from semipd_operator.plan.effective import apply_class
from semipd_operator.plan.loop_settings import loop_config
from semipd_operator.plan.pod import pod_template

FLEET = Fleet(services=120, pods_per_service=5)
NOW_S = 1.8e9
METRICS = """\
# HELP apiserver_request_total Counter of requests
apiserver_request_total{code="200",dry_run="",group="",resource="pods",subresource="status",verb="PATCH"} 7
apiserver_request_total{code="200",group="semipd.io",resource="semipdservices",subresource="status",verb="APPLY"} 3
apiserver_request_total{code="409",group="semipd.io",resource="semipdservices",subresource="status",verb="APPLY"} 1
apiserver_request_total{code="200",group="semipd.io",resource="semipdpartitions",subresource="status",verb="APPLY"} 40
apiserver_request_total{code="200",group="coordination.k8s.io",resource="leases",subresource="",verb="PUT"} 50
apiserver_request_total{code="200",group="",resource="pods",subresource="",verb="LIST"} 1e+03
process_cpu_seconds_total 12.5
"""


# --- the fleet ------------------------------------------------------------------------------------------------


@given(st.integers(0, FLEET.services - 1), st.integers(0, FLEET.pods_per_service - 1))
def test_a_pod_is_found_by_its_address_and_by_its_name(service, replica):
    pod = PodName(service, replica)
    assert FLEET.pod_at(FLEET.address_of(pod)) == pod
    assert parse_pod_name(pod_name(pod)) == pod
    assert parse_service_name(service_name(service)) == service


def test_every_pod_has_an_address_of_its_own_on_this_machine():
    addresses = {FLEET.address_of(pod) for pod in FLEET.pod_names()}
    assert len(addresses) == FLEET.pods
    assert all(address.startswith("127.") for address in addresses)


def test_services_and_class_are_read_as_the_operator_reads_them():
    service, cls = codec.decode_service(build_service(7, 5)), codec.decode_class(build_class())
    assert (service.metadata.namespace, service.spec.replicas, cls.is_default) == ("team-000", 5, True)


def test_a_pod_comes_from_the_template_of_its_workload():
    service, cls = codec.decode_service(build_service(7, 5)), codec.decode_class(build_class())
    template = pod_template(apply_class(service, cls.spec, operator_image="semipd/engine:1"))
    pod = build_pod(PodName(7, 2), template, "chat-00007", "uid-7")
    assert pod["metadata"]["labels"]["semipd.io/service"] == "chat-00007"
    assert pod["spec"]["containers"] == template["spec"]["containers"]
    assert pod["metadata"]["ownerReferences"][0]["uid"] == "uid-7"


# --- traffic --------------------------------------------------------------------------------------------------


def report(traffic, now_s=NOW_S):
    [found] = msgspec.json.decode(traffic.report(now_s), type=list[EngineReport])
    return found


def test_a_report_has_the_slots_and_the_steps_of_a_real_one():
    found = report(EngineTraffic("engine-0", 1))
    starts = [slot.start_s for slot in found.front_end.slots]
    assert starts == sorted(starts)
    assert len(starts) == SLOTS_KEPT
    assert len(found.coordinator.samples) == 128


def test_a_slot_is_drawn_once():
    traffic = EngineTraffic("engine-0", 1)
    first, later = (report(traffic, now_s).front_end.slots for now_s in (NOW_S, NOW_S + 20))
    assert first[10:] == later[: SLOTS_KEPT - 10]


def test_traffic_varies_around_its_mean():
    source = random.Random(3)
    arrivals = [draw_slot(source, 0, STEADY, (80, 100)).arrived for _ in range(3000)]
    assert fmean(arrivals) == pytest.approx(3.0, abs=0.15)
    assert len(set(arrivals)) > 5


@pytest.mark.parametrize(
    ("load", "split", "meets"),
    [(STEADY, (80, 100), True), (HEAVY, (80, 100), False), (HEAVY, (20, 100), True)],
)
def test_the_heavy_load_needs_another_split_and_there_is_one(load, split, meets):
    assert (decode_step_us(load, split)[1] / 1000 < SLO.tpot_ms) == meets


def test_the_cluster_loop_holds_under_the_steady_load_and_moves_under_the_heavy_one():
    service = codec.decode_service(build_service(0, 3))
    cls = codec.decode_class(build_class())
    config = loop_config(apply_class(service, cls.spec, operator_image="x"), 15.0)
    engines = [EngineTraffic("engine-0", seed) for seed in range(3)]
    state, seen = initial_state(config), []
    for look in range(12):
        if look == 6:
            for engine in engines:
                engine.load = HEAVY
        now_s = NOW_S + 15 * look
        reports = {f"pod-{number}": report(engine, now_s) for number, engine in enumerate(engines)}
        state, found = step(state, config, reports, now_s)
        seen.append((found.window_state, found.decision.partition != config.initial))
    assert seen[:6] == [(WindowState.MET, False)] * 6
    assert seen[-1][1]


# --- agents ---------------------------------------------------------------------------------------------------


def test_a_status_says_switching_until_the_split_is_granted():
    wish = WishWire(target=PartitionWire(prefill_percent=40, decode_percent=100), decision_id="cluster-2")
    old, granted = PodPartitionStatus(), PartitionWire(prefill_percent=80, decode_percent=100)
    found = []
    for running in (granted, wish.target):
        old = status_of("chat-00001-00", wish, running, generation=2, old=old, now="2026-11-21T12:00:00Z")
        found.append({each.type: each.status for each in old.engines[0].conditions}["Switching"])
    assert found == ["True", "False"]
    assert (old.observed_decision_id, old.engines[0].granted.prefill_percent) == ("cluster-2", 40)


async def ask(client, fleet, pod, port):
    try:
        answer = await client.get(f"http://{fleet.address_of(pod)}:{port}/v1/windows", timeout=0.5)
    except (httpx.ConnectError, httpx.ReadError, httpx.RemoteProtocolError):
        return "refused"
    except httpx.TimeoutException:
        return "nothing"
    return msgspec.json.decode(answer.content, type=list[EngineReport])[0].engine_id


async def test_agents_are_told_apart_by_their_address_and_behave_as_told():
    fleet, port = Fleet(services=2, pods_per_service=2), free_port()
    traffic = {pod: EngineTraffic(pod_name(pod), number) for number, pod in enumerate(fleet.pod_names())}
    first, second = PodName(0, 1), PodName(1, 0)
    server = AgentServer(fleet, traffic, port)
    async with server.running(), httpx.AsyncClient(trust_env=False) as client:
        assert await ask(client, fleet, first, port) == pod_name(first)
        await server.set_conduct(first, Conduct.REFUSES)
        await server.set_conduct(second, Conduct.HANGS)
        found = await asyncio.gather(*(ask(client, fleet, pod, port) for pod in fleet.pod_names()))
        assert found == [pod_name(PodName(0, 0)), "refused", "nothing", pod_name(PodName(1, 1))]
        for pod in (first, second):
            await server.set_conduct(pod, Conduct.SERVES)
        assert await ask(client, fleet, first, port) == pod_name(first)
        assert await ask(client, fleet, second, port) == pod_name(second)


# --- measures -------------------------------------------------------------------------------------------------


def test_requests_are_counted_over_their_codes():
    found = parse_requests(METRICS)
    assert found["APPLY", "semipdservices/status"] == 4
    assert found["LIST", "pods"] == 1000
    assert parse_cpu_s(METRICS) == 12.5


def test_writes_are_what_came_in_between_and_reads_are_none():
    before = {("APPLY", "semipdservices/status"): 1, ("PUT", "leases"): 50}
    writes = writes_between(before, parse_requests(METRICS))
    assert writes == {"semipdpartitions/status": 40, "pods/status": 7, "semipdservices/status": 3}
    assert by_writer({**writes, "leases": 2}) == {"agents": 40, "operator": 10, "operator's lease": 2}


def test_a_process_is_read_also_when_its_name_holds_spaces_and_brackets():
    stat = f"7 (a) b) S {' '.join(['0'] * 10)} 250 150 0 0"
    used = parse_usage(stat, "VmHWM:\t  200000 kB\nVmRSS:\t  100000 kB\nThreads:\t1\n")
    assert (used.cpu_s, used.rss_mb, used.peak_rss_mb) == (4.0, 100.0, 200.0)


def test_this_process_has_used_something():
    used = read_usage(os.getpid())
    assert used.peak_rss_mb >= used.rss_mb > 10


def figures(rounds, round_s):
    return OperatorFigures(
        leads=True,
        services=2,
        queue_length=0,
        turns=9,
        writes=3,
        rounds=rounds,
        round_s=round_s,
        services_looked_at=2,
        engines_reporting=7,
    )


def test_the_operators_own_figures_are_read_off_its_metrics():
    lines = {
        "leads": 1.0,
        "services": 2.0,
        "queue_length": 0.0,
        "turns": 9.0,
        "writes": 3.0,
        "rounds": 4.0,
        "round_seconds": 1.5,
        "services_looked_at": 2.0,
        "engines_reporting": 7.0,
    }
    text = "".join(f"semipd_operator_{name} {value}\n" for name, value in lines.items())
    assert parse_figures(text) == figures(4, 1.5)


def test_each_round_counts_once_and_the_one_under_way_at_the_start_does_not():
    rounds = Rounds()
    for number, seconds in ((3, 9.0), (3, 9.0), (4, 1.0), (4, 1.0), (5, 2.0)):
        rounds.note(figures(number, seconds))
    assert rounds.seconds == [1.0, 2.0]


# --- judgement ------------------------------------------------------------------------------------------------


def span(**changes):
    whole = Span(
        seconds=100.0,
        operator_cpu_s=40.0,
        api_server_cpu_s=10.0,
        rss_mb=120.0,
        peak_rss_mb=150.0,
        writes={"semipdservices/status": 20, "leases": 60, "semipdpartitions/status": 560},
        operator_writes=20,
        rounds_s=(7.0, 8.0, 9.0),
    )
    return dataclasses.replace(whole, **changes)


def result(**changes):
    whole = ScaleResult(
        services=1000,
        agents=5000,
        round_s=15.0,
        versions={},
        report_bytes=40_000,
        services_created_s=2.0,
        from_nothing=FromNothing(partitions_s=90.0, observed_s=80.0, ready_s=100.0, span=span()),
        steady=span(),
        restart=Restart(leads_s=16.0, converged_s=40.0, span=span()),
        reactions=(Reaction(first_s=10.0, all_s=12.0),),
        outages=(Outage(conduct="Hangs", span=span(), engines_reporting=(2500,), said={"MetricsFound": 9}),),
    )
    return dataclasses.replace(whole, **changes)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        pytest.param({}, [], id="all targets kept"),
        pytest.param(
            {"restart": Restart(leads_s=16.0, converged_s=61.0, span=span())},
            ["a restart over existing objects converges within 60 s"],
            id="a slow restart",
        ),
        pytest.param(
            {
                "from_nothing": FromNothing(
                    partitions_s=1, observed_s=1, ready_s=1, span=span(peak_rss_mb=210)
                )
            },
            ["the operator stays under 200 MB"],
            id="a peak in any phase",
        ),
        pytest.param(
            {"steady": span(writes={"semipdservices/status": 50, "leases": 60})},
            ["the operator writes less than 1/s when nothing changes"],
            id="the lease counts as a write of the operator",
        ),
        pytest.param(
            {"steady": span(writes={"semipdpartitions/status": 1000})},
            ["all write less than 10/s when nothing changes"],
            id="agents that write too much",
        ),
        pytest.param(
            {"steady": span(rounds_s=(7.0, 16.0))},
            ["rounds take at most 15 s (steady)"],
            id="one long round",
        ),
        pytest.param(
            {"steady": span(rounds_s=())},
            ["rounds take at most 15 s (steady)"],
            id="no round at all",
        ),
        pytest.param(
            {"reactions": (Reaction(first_s=None, all_s=None),)},
            ["every service with a bad window gets another split"],
            id="a window that nobody minds",
        ),
    ],
)
def test_targets(changes, failed):
    assert [each.name for each in judge_scale(result(**changes)) if not each.holds] == failed


def test_rows_have_a_cell_for_each_column_and_numbers_can_be_kept():
    found = result(reactions=(Reaction(first_s=10.0, all_s=None),))
    assert {len(row) for row in scale_rows(found)} == {len(NUMBER_HEAD)}
    numbers = json.loads(json.dumps(scale_numbers(found)))
    assert numbers["steady"]["writes_by_writer"]["agents"] == 560
    assert numbers["outages"][0]["span"]["writes_by_writer"]["operator"] == 20
