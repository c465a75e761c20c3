"""Settings of an engine that a service has no field for, from the environment: `SEMIPD_MAX_ROWS=64`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from semipd_core.api.fields import Device
from semipd_core.engine_config import AttentionKernels
from semipd_core.errors import InvalidSpec

_PREFIX = "SEMIPD_"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSizes:
    """What suits a device, where nothing else is said."""

    block_tokens: int  # of one KV block
    max_rows: int  # sequences in one decode step
    prefill_budget_tokens: int  # of one prefill step
    mixed_budget_tokens: int  # of one step under `Unified`
    run_ahead: int  # steps in flight per lane
    standby_lanes: int  # kept warm at other shares, of one engine (MPS)


# A model of 100 M parameters on a CPU core. A step takes a hundred round trips: one ahead hides nothing, and who arrives waits.
# A new lane is there within a second, and what one holds of the host's memory others may want.
CPU_SIZES = StepSizes(
    block_tokens=16,
    max_rows=32,
    prefill_budget_tokens=128,
    mixed_budget_tokens=64,
    run_ahead=1,
    standby_lanes=0,
)
# 8 B parameters on one of NVIDIA's large GPUs: below some 512 tokens a step does not fill it. Not tuned.
CUDA_SIZES = StepSizes(
    block_tokens=64,
    max_rows=256,
    prefill_budget_tokens=2048,
    mixed_budget_tokens=512,
    run_ahead=2,
    standby_lanes=2,
)


class EngineSettings(BaseSettings):
    """None: what suits the device."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="ignore")

    block_tokens: int | None = Field(None, ge=1, le=256)
    max_rows: int | None = Field(None, ge=1, le=1024)
    prefill_budget_tokens: int | None = Field(None, ge=1, le=65_536)
    mixed_budget_tokens: int | None = Field(None, ge=1, le=65_536)
    prefill_policy: Literal["SPF", "FCFS"] = "SPF"
    spf_aging_tokens_per_s: float = Field(15.0, ge=0.0, le=1e6)
    spf_max_wait_s: float = Field(10.0, gt=0.0, le=3600.0)
    run_ahead: int | None = Field(None, ge=1, le=8)
    attention_kernels: AttentionKernels = AttentionKernels.AUTO  # on a GPU
    standby_lanes: int | None = Field(None, ge=0, le=8)
    standby_max_age_s: float = Field(900.0, gt=0.0, le=86_400.0)
    prefix_cache: bool = True
    api_key: SecretStr | None = None  # what `spec.http.apiKeySecretRef` stands for on one machine

    def sizes(self, device: Device) -> StepSizes:
        """Those that are set, the others as they suit `device`."""
        suited = asdict(CUDA_SIZES if device is Device.CUDA else CPU_SIZES)
        given = {name: value for name in suited if (value := getattr(self, name)) is not None}
        return StepSizes(**{**suited, **given})


def read_settings() -> EngineSettings:
    """Raises: InvalidSpec naming the environment variable."""
    try:
        return EngineSettings()
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        variable = _PREFIX + "_".join(map(str, detail["loc"])).upper()
        raise InvalidSpec(variable, detail["input"], detail["msg"]) from None
