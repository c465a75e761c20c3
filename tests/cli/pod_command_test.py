"""`semipd pod`: what it must find in its environment."""

from __future__ import annotations

import json
from typing import Any

import pytest

from semipd_cli.pod import read_isolations, read_kubernetes, read_service
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Isolation

SERVICE = {
    "apiVersion": "semipd.io/v1alpha1",
    "kind": "SemiPDService",
    "metadata": {"name": "chat", "namespace": "team-a"},
    "spec": {"model": {"uri": "builtin://smollm2-135m"}},
}


def test_the_service_comes_from_the_environment() -> None:
    assert read_service({"SEMIPD_SERVICE": json.dumps(SERVICE)}).metadata.name == "chat"


@pytest.mark.parametrize(
    ("environment", "path"),
    [
        pytest.param({}, "SEMIPD_SERVICE", id="not set"),
        pytest.param({"SEMIPD_SERVICE": ""}, "SEMIPD_SERVICE", id="empty"),
        pytest.param({"SEMIPD_SERVICE": "{"}, "SEMIPD_SERVICE", id="no JSON"),
        pytest.param({"SEMIPD_SERVICE": json.dumps({**SERVICE, "spec": {}})}, "spec.model", id="no model"),
    ],
)
def test_a_service_that_cannot_be_read(environment: dict[str, str], path: str) -> None:
    with pytest.raises(InvalidSpec) as error:
        read_service(environment)
    assert error.value.path == path


@pytest.mark.parametrize("missing", ["POD_NAME", "POD_NAMESPACE"])
def test_the_pod_must_know_its_name(missing: str) -> None:
    environment: dict[str, Any] = {"POD_NAME": "chat-1", "POD_NAMESPACE": "team-a"}
    assert read_kubernetes(environment, 8001).name == "chat-1"
    del environment[missing]
    with pytest.raises(InvalidSpec) as error:
        read_kubernetes(environment, 8001)
    assert error.value.path == missing


@pytest.mark.parametrize(
    ("environment", "isolations"),
    [
        pytest.param({}, tuple(Isolation), id="the class says nothing else"),
        pytest.param(
            {"SEMIPD_ISOLATIONS": "MPS,None"}, (Isolation.MPS, Isolation.NONE), id="what the class allows"
        ),
    ],
)
def test_auto_chooses_among_what_the_environment_names(
    environment: dict[str, str], isolations: tuple[Isolation, ...]
) -> None:
    assert read_isolations(environment) == isolations


def test_an_isolation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="SEMIPD_ISOLATIONS: got 'MPS,MIG', allowed: some of MPS"):
        read_isolations({"SEMIPD_ISOLATIONS": "MPS,MIG"})
