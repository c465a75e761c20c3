"""EndpointSlices become upstreams, and what happened to an upstream decides whether it is asked."""

from __future__ import annotations

from typing import Any

import pytest

from semipd_core.routing.choice import Health
from semipd_core.routing.load import LoadSample
from semipd_engine.proxy.endpoints import read_endpoints
from semipd_engine.proxy.upstreams import LONGEST_PAUSE_S, Address, Endpoint, Upstream, Upstreams

PORTS = [{"name": "http", "port": 8000}, {"name": "agent", "port": 8001}]


def endpoint(name: str | None, address: str, **conditions: bool) -> dict[str, Any]:
    target = {"targetRef": {"kind": "Pod", "name": name}} if name else {}
    return {"addresses": [address], "conditions": conditions, **target}


def slice_of(
    *endpoints: dict[str, Any], name: str = "s", ports: Any = PORTS, kind: str = "IPv4"
) -> dict[str, Any]:
    return {"metadata": {"name": name}, "addressType": kind, "ports": ports, "endpoints": list(endpoints)}


def at(host: str) -> Address:
    return Address(host=host, port=8000, agent_port=8001)


@pytest.mark.parametrize(
    ("slices", "expected"),
    [
        pytest.param([], [], id="none"),
        pytest.param([slice_of()], [], id="an empty slice"),
        pytest.param([{**slice_of(), "endpoints": None, "ports": None}], [], id="null lists"),
        pytest.param(
            [slice_of(endpoint("a", "10.0.0.1"))],
            [Endpoint(name="a", address=at("10.0.0.1"), ready=True)],
            id="absent conditions mean ready",
        ),
        pytest.param(
            [slice_of(endpoint("a", "10.0.0.1", ready=False, serving=False, terminating=False))],
            [Endpoint(name="a", address=at("10.0.0.1"), ready=False)],
            id="not ready",
        ),
        pytest.param(
            [slice_of(endpoint("a", "10.0.0.1", ready=False, serving=True, terminating=True))],
            [Endpoint(name="a", address=at("10.0.0.1"), ready=False, leaving=True)],
            id="it drains",
        ),
        pytest.param(
            [slice_of(endpoint("a", "10.0.0.1", ready=False, serving=False, terminating=True))],
            [],
            id="it has drained",
        ),
        pytest.param(
            [slice_of(endpoint(None, "10.0.0.1"))],
            [Endpoint(name="10.0.0.1:8000", address=at("10.0.0.1"), ready=True)],
            id="without a pod's name",
        ),
        pytest.param(
            [slice_of(endpoint("a", "10.0.0.1"), ports=[{"name": "other", "port": 9}])], [], id="another port"
        ),
        pytest.param([slice_of(endpoint("a", "host.example"), kind="FQDN")], [], id="a name is no pod"),
        pytest.param(
            [
                slice_of(endpoint("a", "fd00::1"), name="six", kind="IPv6"),
                slice_of(endpoint("a", "10.0.0.1"), name="four"),
            ],
            [Endpoint(name="a", address=at("10.0.0.1"), ready=True)],
            id="two address families are one pod",
        ),
        pytest.param(
            [
                slice_of(endpoint("a", "10.0.0.1", ready=False), name="s1"),
                slice_of(endpoint("a", "10.0.0.1", ready=True), name="s2"),
            ],
            [Endpoint(name="a", address=at("10.0.0.1"), ready=True)],
            id="on its way from one slice to another",
        ),
    ],
)
def test_endpoints_of_slices(slices: list[dict[str, Any]], expected: list[Endpoint]) -> None:
    assert read_endpoints(slices) == expected


def test_urls_of_an_address() -> None:
    assert at("10.0.0.1").url == "http://10.0.0.1:8000"
    assert at("fd00::1").agent_url == "http://[fd00::1]:8001"


def test_a_sync_keeps_what_is_known_of_those_that_stay() -> None:
    upstreams = Upstreams()
    upstreams.sync([Endpoint(name=name, address=at(name), ready=True) for name in "abc"])
    upstreams.by_name["a"].num_open = 3
    upstreams.prefixes.record([1], "b")
    upstreams.prefixes.record([2], "c")
    moved = Endpoint(name="b", address=at("other"), ready=True)
    gone = upstreams.sync([Endpoint(name="a", address=at("a"), ready=False), moved])
    assert [each.name for each in gone] == ["b", "c"]
    assert upstreams.by_name.keys() == {"a", "b"}
    assert (upstreams.by_name["a"].num_open, upstreams.by_name["a"].ready) == (3, False)
    assert upstreams.by_name["b"].address == at("other")
    assert upstreams.prefixes.matches([1]) == upstreams.prefixes.matches([2]) == {}


def sample(at_s: float, *, ready: bool) -> LoadSample:
    return LoadSample(at_s=at_s, ready=ready, open_requests=0, own_open=0)


@pytest.mark.parametrize(
    ("known", "health"),
    [
        pytest.param({"ready": True}, Health.READY, id="ready by the API server"),
        pytest.param({"ready": False}, Health.DOWN, id="not ready by the API server"),
        pytest.param({"ready": True, "leaving": True}, Health.LEAVING, id="it drains"),
        pytest.param(
            {"ready": False, "load": sample(99.0, ready=True)}, Health.READY, id="its agent knows it sooner"
        ),
        pytest.param(
            {"ready": True, "load": sample(99.0, ready=False)}, Health.DOWN, id="its agent knows better"
        ),
        pytest.param(
            {"ready": True, "load": sample(90.0, ready=False)}, Health.READY, id="an old word does not count"
        ),
        pytest.param({"ready": True, "set_aside_until_s": 100.1}, Health.DOWN, id="set aside"),
        pytest.param({"ready": True, "set_aside_until_s": 99.9}, Health.READY, id="tried again"),
    ],
)
def test_the_health_of_an_upstream(known: dict[str, Any], health: Health) -> None:
    assert Upstream(name="a", address=at("a"), **known).health(100.0) is health


def test_an_upstream_that_goes_on_failing_is_set_aside_for_longer_and_longer() -> None:
    upstream = Upstream(name="a", address=at("a"), ready=True)
    pauses = []
    for _ in range(8):
        upstream.note_failure(0.0)
        pauses.append(upstream.set_aside_until_s)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.5, LONGEST_PAUSE_S)
    upstream.note_answer()
    assert upstream.health(0.0) is Health.READY
    upstream.note_failure(0.0)
    assert upstream.set_aside_until_s == 0.5
