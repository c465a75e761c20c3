"""The proxy of a service: EndpointSlices of a real API server before real front ends, with agents that the test plays."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from api_server import API_SERVER_IS_BUILT, api_server_with_crds
from fake_coordinator import say
from front_end_process import (
    RunningFrontEnd,
    completion,
    events_of,
    running_front_end,
    until,
    until_no_listener,
    wait_ready,
)
from running_service import free_port
from service_endpoints import ClusterProxy, EndpointSlices, FakeAgent, own_address, running_cluster_proxy

from semipd_core.messages import Failed

COMPLETIONS = "/v1/completions"
LONG = "the quick brown fox jumps over the lazy dog, then rests " * 6  # more than one block of a prefix

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
    pytest.mark.skipif(own_address() is None, reason="this machine has no address but loopback"),
]


@dataclass(slots=True, eq=False, kw_only=True)
class Pod:
    """A front end on TCP with the agent beside it."""

    name: str
    front_end: RunningFrontEnd
    agent: FakeAgent
    slices: EndpointSlices

    def put(self, **conditions: bool) -> None:
        self.slices.put(self.name, self.port, self.agent.port, **conditions)

    @property
    def port(self) -> int:
        assert self.front_end.config.port is not None
        return self.front_end.config.port

    @property
    def num_submits(self) -> int:
        return len(self.front_end.coordinator.submits)


@contextlib.asynccontextmanager
async def running_pod(name: str, directory: Path, slices: EndpointSlices) -> AsyncIterator[Pod]:
    (own := directory / name).mkdir()
    agent = FakeAgent()
    try:
        async with running_front_end(own, host="0.0.0.0", port=free_port()) as front_end:
            yield Pod(name=name, front_end=front_end, agent=agent, slices=slices)
    finally:
        agent.close()


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with api_server_with_crds(tmp_path_factory.mktemp("api-server")) as path:
        yield path


@dataclass(slots=True, eq=False, kw_only=True)
class Fleet:
    proxy: ClusterProxy
    pods: list[Pod]

    @property
    def submits(self) -> list[int]:
        return [each.num_submits for each in self.pods]

    def post(self, **fields: Any) -> asyncio.Task[httpx.Response]:
        return asyncio.create_task(self.proxy.client.post(COMPLETIONS, json=completion(**fields)))


@contextlib.asynccontextmanager
async def running_fleet(kubeconfig: Path, directory: Path, *arguments: str) -> AsyncIterator[Fleet]:
    slices = EndpointSlices(kubeconfig)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(slices.close)
        pods = [
            await stack.enter_async_context(running_pod(name, directory, slices)) for name in ("one", "two")
        ]
        for pod in pods:
            pod.put()
        proxy = await stack.enter_async_context(running_cluster_proxy(kubeconfig, directory, *arguments))
        await proxy.until_upstreams("one", "two")
        yield Fleet(proxy=proxy, pods=pods)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    async with running_fleet(kubeconfig, tmp_path_factory.mktemp("fleet")) as running:
        yield running


@pytest.fixture
def fleet(shared: Fleet) -> Fleet:
    """Shared by the tests that leave it as they found it."""
    for pod in shared.pods:
        pod.front_end.coordinator.reset()
        pod.agent.load = None
    return shared


async def test_endpoint_slices_say_who_is_asked(fleet: Fleet) -> None:
    one, two = fleet.pods
    one.slices.remove("one")
    await fleet.proxy.until_upstreams("two")
    assert (await fleet.post()).status_code == 200
    two.put(terminating=True)
    one.put()
    await fleet.proxy.until_upstreams("one")
    assert (await fleet.post()).status_code == 200
    assert fleet.submits == [1, 1]
    two.put()
    await fleet.proxy.until_upstreams("one", "two")


async def test_a_prompt_goes_where_its_prefix_is(fleet: Fleet) -> None:
    first = (await fleet.post(prompt=LONG, max_tokens=1)).status_code
    holder = fleet.submits.index(1)
    answers = [(await fleet.post(prompt=f"{LONG} {number}", max_tokens=1)).status_code for number in range(5)]
    assert {first, *answers} == {200}
    assert fleet.submits[holder] == 6
    assert await fleet.proxy.metric('semipd_proxy_picks_total{reason="Prefix"}') >= 5


async def test_a_prompt_leaves_its_prefix_for_a_pod_that_is_much_less_loaded(fleet: Fleet) -> None:
    prompt = f"then {LONG}"
    assert (await fleet.post(prompt=prompt, max_tokens=1)).status_code == 200
    holder = fleet.submits.index(1)
    fleet.pods[holder].agent.tell(40)
    fleet.pods[1 - holder].agent.tell(0)
    await _until_known(fleet)
    assert (await fleet.post(prompt=prompt, max_tokens=1)).status_code == 200
    assert fleet.submits == [1, 1]


async def test_the_load_that_others_make_counts(fleet: Fleet) -> None:
    fleet.pods[0].agent.tell(5)
    fleet.pods[1].agent.tell(0)
    await _until_known(fleet)
    for _ in range(3):
        assert (await fleet.post()).status_code == 200
    assert fleet.submits == [0, 3]


async def test_a_pod_whose_agent_says_that_it_is_not_ready_is_spared_before_the_api_server_knows(
    fleet: Fleet,
) -> None:
    fleet.pods[0].agent.tell(0, ready=False)
    await fleet.proxy.until_upstreams("two")
    fleet.pods[0].agent.tell(0)
    await fleet.proxy.until_upstreams("one", "two")


async def _until_known(fleet: Fleet) -> None:
    """Both agents have been asked again since now, and what they said was read."""
    for pod in fleet.pods:
        seen = pod.agent.num_asked
        await until(lambda pod=pod, seen=seen: pod.agent.num_asked >= seen + 2)


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [(Failed(request_id="", status=500, message="broken"), "server_error")],
    ids=["a defect"],
)
async def test_a_request_that_one_pod_fails_is_asked_of_the_other(
    refusal: Failed, reason: str, fleet: Fleet
) -> None:
    before = await fleet.proxy.metric(f'semipd_proxy_refusals_total{{reason="{reason}"}}')
    fleet.pods[0].front_end.coordinator.refuse = refusal
    assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4
    assert fleet.pods[0].num_submits > 0
    assert await fleet.proxy.metric(f'semipd_proxy_refusals_total{{reason="{reason}"}}') > before


async def test_a_request_that_breaks_every_engine_is_asked_of_two_and_answered_in_their_words(
    fleet: Fleet,
) -> None:
    for pod in fleet.pods:
        pod.front_end.coordinator.refuse = Failed(request_id="", status=500, message="it kills lanes")
    answer = await fleet.post()
    assert (answer.status_code, answer.json()["error"]["message"]) == (500, "it kills lanes")
    assert fleet.submits == [1, 1]


async def test_a_client_that_leaves_is_missed_by_the_pod(fleet: Fleet) -> None:
    for pod in fleet.pods:
        pod.front_end.coordinator.gate.clear()
    answer = fleet.post(stream=True)
    await until(lambda: sum(fleet.submits) == 1)
    answer.cancel()
    await until(lambda: sum(len(pod.front_end.coordinator.aborts) for pod in fleet.pods) == 1)


async def test_a_pod_that_drains_sends_its_new_requests_on(kubeconfig: Path, tmp_path: Path) -> None:
    async with running_fleet(kubeconfig, tmp_path) as fleet:
        assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4
        leaving = fleet.pods[0]
        await leaving.front_end.client.post("/internal/drain")
        await until_no_listener(leaving.port)
        async with asyncio.timeout(60):
            while not await fleet.proxy.metric('semipd_proxy_refusals_total{reason="connect"}'):
                assert (await fleet.post()).status_code == 200
        before = fleet.submits
        assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4
        assert fleet.submits == [before[0], before[1] + 4]


async def test_a_pod_that_dies_costs_no_request_without_a_token(kubeconfig: Path, tmp_path: Path) -> None:
    async with running_fleet(kubeconfig, tmp_path) as fleet:
        dying = fleet.pods[0].front_end
        dying.coordinator.gate.clear()
        answers = [fleet.post(stream=stream) for stream in (True, False, True, False)]
        await until(lambda: fleet.submits[0] >= 1 and sum(fleet.submits) == 4)
        waiting = fleet.submits[0]
        dying.process.kill()
        assert [(await each).status_code for each in answers] == [200] * 4
        assert fleet.submits == [waiting, 4]
        assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4
        assert await fleet.proxy.metric('semipd_proxy_refusals_total{reason="cut"}') == waiting


async def test_a_stream_that_breaks_off_after_a_token_ends_with_an_error_and_is_not_asked_again(
    kubeconfig: Path, tmp_path: Path
) -> None:
    async with running_fleet(kubeconfig, tmp_path) as fleet:
        for pod in fleet.pods:
            pod.front_end.coordinator.model = say("the quick brown fox " * 20)
            pod.front_end.coordinator.pause_s = 0.05
        body = completion(stream=True, max_tokens=100)
        async with fleet.proxy.client.stream("POST", COMPLETIONS, json=body) as response:
            chunks = aiter(response.aiter_text())
            text = await anext(chunks)
            fleet.pods[fleet.submits.index(1)].front_end.process.kill()
            text += "".join([chunk async for chunk in chunks])
        *events, last = events_of(text)
        assert all(event["choices"] for event in events)
        assert last["error"]["code"] == "upstream_lost"
        assert sum(fleet.submits) == 1


async def test_a_full_pod_sends_its_requests_on_and_full_pods_say_so(
    kubeconfig: Path, tmp_path: Path
) -> None:
    slices = EndpointSlices(kubeconfig)
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(slices.close)
        pods = []
        for name, limit in (("one", 1), ("two", 2)):
            (own := tmp_path / name).mkdir()
            agent = FakeAgent()
            stack.callback(agent.close)
            front_end = await stack.enter_async_context(
                running_front_end(own, host="0.0.0.0", port=free_port(), max_queued_requests=limit)
            )
            front_end.coordinator.gate.clear()
            pods.append(Pod(name=name, front_end=front_end, agent=agent, slices=slices))
            pods[-1].put()
        proxy = await stack.enter_async_context(running_cluster_proxy(kubeconfig, tmp_path))
        await proxy.until_upstreams("one", "two")
        fleet = Fleet(proxy=proxy, pods=pods)
        waiting = [fleet.post() for _ in range(3)]
        await until(lambda: sum(fleet.submits) == 3)
        assert fleet.submits == [1, 2]
        refused = await fleet.post()
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert "retry-after" in refused.headers
        for pod in pods:
            pod.front_end.coordinator.gate.set()
        assert [each.status_code for each in await asyncio.gather(*waiting)] == [200] * 3


async def test_sigterm_first_says_not_ready_then_serves_on_then_finishes_what_is_open(
    kubeconfig: Path, tmp_path: Path
) -> None:
    async with running_fleet(kubeconfig, tmp_path, "--lag-s", "4", "--drain-s", "60") as fleet:
        for pod in fleet.pods:
            pod.front_end.coordinator.gate.clear()
        stream = fleet.post(stream=True)
        await until(lambda: sum(fleet.submits) == 1)
        fleet.proxy.process.send_signal(signal.SIGTERM)
        await wait_ready(fleet.proxy.client, ready=False)
        late = fleet.post()
        await until(lambda: sum(fleet.submits) == 2)
        with pytest.raises(httpx.ConnectError):
            while True:
                await fleet.proxy.client.get("/health")
                await asyncio.sleep(0.1)
        for pod in fleet.pods:
            pod.front_end.coordinator.gate.set()
        assert (await late).status_code == 200
        assert (await late).headers["connection"] == "close"
        assert events_of((await stream).text)
        async with asyncio.timeout(20):
            assert await fleet.proxy.process.wait() == 0


async def test_what_is_open_at_the_end_of_the_drain_is_told_so(kubeconfig: Path, tmp_path: Path) -> None:
    async with running_fleet(kubeconfig, tmp_path, "--drain-s", "1") as fleet:
        for pod in fleet.pods:
            pod.front_end.coordinator.model = say("the quick brown fox " * 20)
            pod.front_end.coordinator.pause_s = 0.5
        streaming = fleet.post(stream=True, max_tokens=100)
        await until(lambda: sum(pod.front_end.coordinator.num_tokens_sent for pod in fleet.pods) > 0)
        for pod in fleet.pods:
            pod.front_end.coordinator.gate.clear()
        waiting = fleet.post()
        await until(lambda: sum(fleet.submits) == 2)
        fleet.proxy.process.send_signal(signal.SIGTERM)
        assert events_of((await streaming).text)[-1]["error"]["code"] == "unavailable"
        assert (await waiting).status_code == 503
        async with asyncio.timeout(20):
            assert await fleet.proxy.process.wait() == 0


async def test_without_pods_it_is_ready_and_says_what_is_missing(kubeconfig: Path, tmp_path: Path) -> None:
    async with running_cluster_proxy(kubeconfig, tmp_path, service="nobody") as proxy:
        answer = await proxy.client.post(COMPLETIONS, json=completion())
        assert answer.status_code == 503
        assert "none of 0 engines" in answer.json()["error"]["message"]
        assert (await proxy.client.get("/metrics")).status_code == 200


async def test_an_api_server_that_is_away_costs_nothing(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with ExitStack() as api:
        kubeconfig = api.enter_context(api_server_with_crds(tmp_path_factory.mktemp("api-server")))
        async with running_fleet(kubeconfig, tmp_path) as fleet:
            for pod in fleet.pods:
                pod.agent.tell(0)
            await asyncio.to_thread(api.close)
            assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4
            assert fleet.submits == [2, 2]
            fleet.pods[0].front_end.process.kill()
            fleet.pods[0].agent.load = None
            assert [(await fleet.post()).status_code for _ in range(4)] == [200] * 4
            assert fleet.submits == [2, 6]
            log = [json.loads(line) for line in fleet.proxy.log_path.read_text().splitlines()]
            assert any(line["event"] == "upstream lost" for line in log)
