"""Watches that stay open and say nothing more: the operator in this process, where its patience can be shortened."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import faulty_api
import pytest
from api_server import API_SERVER_IS_BUILT
from faulty_api import FaultyApi
from operator_process import Agents, Cluster
from running_service import free_port
from settled_service import same_in_the_end, settle

from semipd_operator import kopf_watch
from semipd_operator.__main__ import Operator
from semipd_operator.handlers import build_settings
from semipd_operator.observe.scrape import open_client
from semipd_operator.settings import OperatorSettings
from semipd_shell import informer
from semipd_shell.api_client import open_api_client

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not API_SERVER_IS_BUILT, reason="the API server is not built: make cluster-build"),
]
PATIENCE_S = 3.0


@pytest.fixture
def api(kubeconfig: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyApi]:
    with faulty_api.faulty_api(kubeconfig) as proxy:
        monkeypatch.setenv("KUBECONFIG", str(proxy.write_kubeconfig(tmp_path / "kubeconfig")))
        yield proxy


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = build_settings()
    assert settings.watching.inactivity_timeout <= informer.STALL_S <= 90, "a minute and a half at most"
    settings.watching.inactivity_timeout = PATIENCE_S
    monkeypatch.setattr(kopf_watch, "build_settings", lambda: settings)
    monkeypatch.setattr(informer, "STALL_S", PATIENCE_S)


async def test_watches_that_say_nothing_more_are_opened_anew(
    api: FaultyApi, patience: None, cluster: Cluster, agents: Agents
) -> None:
    settings = OperatorSettings(
        engine_image="semipd/engine:test",
        namespace="default",
        round_seconds=1.0,
        agent_port=agents.port,
        health_port=free_port(),
    )
    answers: Counter[str] = Counter()
    client = open_api_client(answers)
    async with open_client() as to_agents:
        running = asyncio.create_task(Operator(settings, client, to_agents, answers).run())
        try:
            await asyncio.to_thread(settle, cluster, "before")
            api.stall_watches()
            await asyncio.to_thread(settle, cluster, "after")
            await asyncio.to_thread(cluster.delete, "Service", "before")
            await asyncio.to_thread(
                cluster.wait, lambda: cluster.get("Service", "before"), "the lost child is back"
            )
            await asyncio.to_thread(same_in_the_end, cluster, "after", "before")
            assert not running.done()
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await client.aclose()
