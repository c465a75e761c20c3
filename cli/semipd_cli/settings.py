"""Settings of an engine that a service has no field for, from the environment: `SEMIPD_MAX_ROWS=64`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from semipd_core.errors import InvalidSpec

_PREFIX = "SEMIPD_"


class EngineSettings(BaseSettings):
    """Defaults suit a model of 100 M parameters on a CPU core."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    block_tokens: int = Field(16, ge=1, le=256)  # of one KV block
    max_rows: int = Field(32, ge=1, le=1024)  # sequences in one decode step
    prefill_budget_tokens: int = Field(128, ge=1, le=65_536)  # of one prefill step
    mixed_budget_tokens: int = Field(64, ge=1, le=65_536)  # of one step under `Unified`
    prefill_policy: Literal["SPF", "FCFS"] = "SPF"
    spf_aging_tokens_per_s: float = Field(15.0, ge=0.0, le=1e6)
    spf_max_wait_s: float = Field(10.0, gt=0.0, le=3600.0)
    # Steps in flight per lane. A CPU step takes a hundred round trips: a step ahead hides nothing, and who arrives waits.
    run_ahead: int = Field(1, ge=1, le=8)
    prefix_cache: bool = True
    api_key: SecretStr | None = None  # what `spec.http.apiKeySecretRef` stands for on one machine


def read_settings() -> EngineSettings:
    """Raises: InvalidSpec naming the environment variable."""
    try:
        return EngineSettings()
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        variable = _PREFIX + "_".join(map(str, detail["loc"])).upper()
        raise InvalidSpec(variable, detail["input"], detail["msg"]) from None
