"""An API server of each module's own, and the agents that its pods are played with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_server import api_server_with_crds
from operator_process import Agents, Cluster, OperatorProcess, serving_agents
from running_service import free_port


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with api_server_with_crds(tmp_path_factory.mktemp("api-server")) as path:
        yield path


@pytest.fixture(scope="module")
def cluster(kubeconfig: Path) -> Iterator[Cluster]:
    running = Cluster(kubeconfig)
    yield running
    running.client.close()


@pytest.fixture(scope="module")
def agents() -> Iterator[Agents]:
    with serving_agents() as served:
        yield served


@pytest.fixture(scope="module")
def operator(
    kubeconfig: Path, agents: Agents, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OperatorProcess]:
    """By the administrator's account; modules that end or limit it have one of their own."""
    with OperatorProcess(
        kubeconfig, tmp_path_factory.mktemp("operator"), agents.port, free_port()
    ) as running:
        yield running
