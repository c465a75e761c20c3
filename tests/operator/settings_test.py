"""The operator's environment: what it takes, and in which words it refuses the rest."""

from __future__ import annotations

import pytest

from semipd_core.errors import InvalidSpec
from semipd_operator.settings import read_settings

CIDRS = "SEMIPD_OPERATOR_API_SERVER_CIDRS"


@pytest.fixture(autouse=True)
def engine_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMIPD_OPERATOR_ENGINE_IMAGE", "semipd/engine:1")


def test_no_api_server_is_named_by_default() -> None:
    assert read_settings().api_server_cidrs == ()


@pytest.mark.parametrize(
    ("given", "cidrs"),
    [
        pytest.param("", (), id="nothing"),
        pytest.param("10.0.0.0/28", ("10.0.0.0/28",), id="one"),
        pytest.param(" 10.0.0.0/28, fd00::/64,", ("10.0.0.0/28", "fd00::/64"), id="several, with spaces"),
        pytest.param("10.0.0.7", ("10.0.0.7/32",), id="an address, as the network that Kubernetes asks for"),
    ],
)
def test_the_networks_of_api_servers(
    given: str, cidrs: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CIDRS, given)
    assert read_settings().api_server_cidrs == cidrs


@pytest.mark.parametrize(
    ("given", "why"),
    [
        pytest.param("10.0.0.0/28,nowhere", "'nowhere' does not appear to be", id="a name"),
        pytest.param("10.0.0.7/28", "10.0.0.7/28 has host bits set", id="an address inside a network"),
        pytest.param("10.0.0.0/28;fd00::/64", "does not appear to be", id="another separator"),
    ],
)
def test_what_is_no_network_is_refused_with_the_one_that_is_meant(
    given: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CIDRS, given)
    with pytest.raises(InvalidSpec) as refused:
        read_settings()
    said = str(refused.value)
    assert said.startswith(
        f"{CIDRS}: got {given!r}, allowed: CIDRs with commas between them, as 10.0.0.0/28,"
    )
    assert why in said
