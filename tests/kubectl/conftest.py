"""A real API server and a fleet played on it, for all tests of the plugin."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from api_server import control_plane_with_crds
from fake_kubelet import FakeKubelet
from played_cluster import FakeAgent, PlayedCluster, host_address
from plugin_process import NODE, Plugin

from semipd_cluster.control_plane import ControlPlane


@pytest.fixture(scope="session")
def address() -> str:
    found = host_address()
    if found is None:
        pytest.skip("this host has no address but loopback, and the pod proxy refuses that")
    return found


@pytest.fixture(scope="session")
def control_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane_with_crds(tmp_path_factory.mktemp("api-server")) as running:
        yield running


@pytest.fixture(scope="session")
def cluster(control_plane: ControlPlane) -> Iterator[PlayedCluster]:
    played = PlayedCluster(control_plane.kubeconfig)
    yield played
    played.client.close()


@pytest.fixture(scope="session")
def plugin(control_plane: ControlPlane) -> Plugin:
    return Plugin(control_plane.kubeconfig)


@pytest.fixture(scope="session")
def kubelet(control_plane: ControlPlane, cluster: PlayedCluster, address: str) -> Iterator[FakeKubelet]:
    """Of the node `NODE`."""
    pair = control_plane.authority.issue(
        "kubelet", f"/O=system:nodes/CN=system:node:{NODE}", [f"IP:{address}"]
    )
    running = FakeKubelet(address, pair)
    cluster.add_node(NODE, address, running.port)
    yield running
    running.close()


@pytest.fixture
def agents(address: str) -> Iterator[list[FakeAgent]]:
    """Three of them, each for a pod."""
    running = [FakeAgent(address) for _ in range(3)]
    yield running
    for agent in running:
        agent.close()
