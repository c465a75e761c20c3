"""The cluster loop of `semipd up` goes by the isolation that the agent has in force, not by the one that was asked for."""

from __future__ import annotations

import asyncio
import contextlib
import time

import msgspec
import pytest

from semipd_cli.init.cluster import run_cluster_loop
from semipd_cli.service_config import build_agent_config
from semipd_cli.settings import read_settings
from semipd_core.agent_config import AgentStatus, IsolationStatus, ProcessStatus, WishWire
from semipd_core.api import codec
from semipd_core.api.fields import Device
from semipd_core.errors import NotReadyYet
from semipd_core.partition import Isolation
from semipd_core.telemetry import EngineReport, FrontEndReport, SloTargets

SERVICE = {
    "apiVersion": "semipd.io/v1alpha1",
    "kind": "SemiPDService",
    "metadata": {"name": "chat"},
    "spec": {"model": {"uri": "builtin://smollm2-135m"}},
}


class FakeClient:
    """An agent with one engine that is steady; it answers from the second question on."""

    def __init__(self, isolation: IsolationStatus | None) -> None:
        self.isolation = isolation
        self.wishes: list[WishWire] = []
        self.asked = 0
        self.told = asyncio.Event()

    async def status(self) -> AgentStatus:
        self.asked += 1
        if self.asked == 1:
            raise NotReadyYet("the agent is replaced", 0.0)
        return AgentStatus(
            service="chat", url="", ready=True, draining=False, agent=ProcessStatus(role="agent", pid=1), shared=[],
            engines=[], wish=None, decisions=[], switches=[], attainment_permille=None, isolation=self.isolation,
        )  # fmt: skip

    async def windows(self) -> list[EngineReport]:
        now_s = time.time()
        slo = SloTargets(ttft_percentile=90, ttft_ms=400, tpot_percentile=90, tpot_ms=60)
        front_end = FrontEndReport(
            at_s=now_s, ready=True, slo=slo, open_requests=0, queued_requests=0, slots=[]
        )
        return [
            EngineReport(
                engine_id="engine-0", at_s=now_s, phase="Steady", requested=(80, 100), granted=(80, 100),
                front_end=front_end, coordinator=None,
            )
        ]  # fmt: skip

    async def put_wish(self, wish: WishWire, _engine_id: str) -> None:
        self.wishes.append(wish)
        self.told.set()


@pytest.mark.parametrize(
    ("chosen", "target", "is_said"),
    [
        pytest.param(None, (80, 100), False, id="an agent that does not choose"),
        pytest.param(("MPS", "ProbePassed"), (80, 100), False, id="what is preferred"),
        pytest.param(("GreenContext", "NoMpsBinary"), (40, 60), True, id="green contexts"),
        pytest.param(("None", "MpsGivenUp"), (100, 100), True, id="no shares"),
    ],
)
async def test_its_wishes_are_splits_that_the_agent_can_run(
    chosen: tuple[str, str] | None, target: tuple[int, int], is_said: bool
) -> None:
    config = build_agent_config(
        codec.decode_service(SERVICE), read_settings(), present=Device.CPU, host="127.0.0.1", port=8000
    )
    config = msgspec.structs.replace(config, device="CUDA")
    isolation = (
        None
        if chosen is None
        else IsolationStatus(isolation=Isolation(chosen[0]), reason=chosen[1], message="why")
    )
    client, lines = FakeClient(isolation), list[str]()
    loop = asyncio.create_task(
        run_cluster_loop(client, config, 60.0, lines.append, lambda: None)  # type: ignore[arg-type]
    )
    told = asyncio.create_task(client.told.wait())
    await asyncio.wait({loop, told}, timeout=90, return_when=asyncio.FIRST_COMPLETED)
    for task in (loop, told):
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loop
    [wish] = client.wishes
    assert (wish.target.prefill_percent, wish.target.decode_percent) == target
    assert any(line.startswith("isolation ") for line in lines) is is_said
