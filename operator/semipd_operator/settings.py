"""Settings of the operator, from the environment: `SEMIPD_OPERATOR_ROUND_SECONDS=15`."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from semipd_core.errors import InvalidSpec
from semipd_operator.plan.naming import AGENT_PORT

_PREFIX = "SEMIPD_OPERATOR_"
_DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"


def _cidrs(given: str | tuple[str, ...]) -> tuple[str, ...]:
    """As Kubernetes takes them: an address alone is a network of one."""
    if not isinstance(given, str):
        return given  # the default
    try:
        return tuple(str(ip_network(each.strip())) for each in given.split(",") if each.strip())
    except ValueError as error:
        allowed = "CIDRs with commas between them, as 10.0.0.0/28,fd00::/64 ({why})"
        raise PydanticCustomError("cidrs", allowed, {"why": str(error)}) from None


class OperatorSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    engine_image: str = Field(min_length=1)  # of services whose class names none
    proxy_image: str | None = Field(
        None, min_length=1
    )  # the operator's own, which has the proxy in it; None: no proxies
    namespace: str = "semipd-system"  # the operator's own: its Lease, and what agents let scrape them
    watch_namespace: str | None = Field(None, max_length=63, pattern=_DNS_LABEL)  # None: the whole cluster
    identity: str = Field("semipd-operator", min_length=1)  # of this pod among the operator's pods
    round_seconds: float = Field(15.0, ge=0.5, le=600.0)  # between two looks of the cluster loop
    canary_start_seconds: float = Field(
        1800.0, ge=1.0, le=86_400.0
    )  # within which the pods of a new template on trial are ready: a first start may fetch tens of GB
    resync_seconds: float = Field(
        300.0, ge=10.0, le=86_400.0
    )  # all services are looked at again, changed or not
    workers: int = Field(8, ge=1, le=64)
    agent_port: int = Field(AGENT_PORT, ge=1, le=65_535)
    health_port: int = Field(8080, ge=1, le=65_535)
    # From where API servers reach pods, for the pod proxy of `kubectl semipd top`.
    api_server_cidrs: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_cidrs)] = ()


def read_settings() -> OperatorSettings:
    """Raises: InvalidSpec naming the environment variable."""
    try:
        return OperatorSettings()
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        variable = _PREFIX + "_".join(map(str, detail["loc"])).upper()
        given = "" if detail["type"] == "missing" else detail["input"]
        raise InvalidSpec(variable, given, detail["msg"]) from None
