"""What a profile is about: this machine's device, and the model of a service as far as its steps' time depends on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from semipd_agent import configure
from semipd_agent.device.inventory import open_device
from semipd_bench.results import read_cpu_name
from semipd_core.agent_config import AgentConfig
from semipd_core.api.model_uri import parse_model_uri
from semipd_core.errors import DeviceError, InvalidSpec
from semipd_core.profile.format import Profile, Subject, decode_profile, difference
from semipd_engine.model import sources
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import cpu_flags, resolve_cuda_dtype, resolve_dtype

FLAG = "--profile"
PROFILE_FILES = "semipd-profile*.json"
# Of a model's config, what no step waits for: other weights of the same shape have the same times.
_TIMELESS = frozenset(
    {
        "rms_norm_eps",
        "rope_theta",
        "rope_divisors",
        "max_context_tokens",
        "eos_token_ids",
        "bos_token_id",
        "dtype",
    }
)
_LARGEST_BYTES = 1 << 22


def subject_of(config: AgentConfig, model: ModelConfig) -> Subject:
    """Raises: DeviceError."""
    kind = config.device
    unit = open_device(kind).inventory().units[0]
    cpus = configure.split_cpus(sorted(os.sched_getaffinity(0)), config.engines)[0]
    return Subject(
        device_kind=kind,
        device_name=read_cpu_name() if kind == "CPU" else unit.name,
        device_cores=len(cpus) if kind == "CPU" else unit.num_cores or 0,
        model=model_shape(model),
        dtype="FP8" if config.dtype == "FP8" else model.dtype,  # a model's is that of what is computed
        ranks=config.num_ranks,
    )


def model_shape(model: ModelConfig) -> dict[str, int | str | bool]:
    fields = msgspec.to_builtins(model, str_keys=True)
    names = {field.encode_name: field.name for field in msgspec.structs.fields(model)}
    timely = {name: value for name, value in fields.items() if names[name] not in _TIMELESS}
    parts = {name: value for name, value in timely.items() if isinstance(value, dict)}
    flat = timely | {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    return {name: value for name, value in flat.items() if isinstance(value, int | str | bool)}


def describe_software() -> dict[str, str]:
    """Versions that a reader may want to know: told, never compared."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for package in ("semipd", "torch", "triton"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_profile(path: str, config: AgentConfig) -> Profile:
    """The profile at `path`, for the service that `config` describes, on this machine.

    One about something else is refused: whoever names a file means it, and wrong step times would steer the split.
    Raises: InvalidSpec.
    """
    profile = load_profile(path)
    source = sources.open_source(config.model_uri)
    if config.device == "CUDA":
        dtype = resolve_cuda_dtype(config.dtype)
    else:
        dtype = resolve_dtype(config.dtype, cpu_flags(Path("/proc/cpuinfo").read_text()))
    here = subject_of(config, source.read_config(dtype, config.max_context_tokens))
    other = difference(profile.subject, here)
    if other is not None:
        raise InvalidSpec(FLAG, path, f"a profile of this device and model; it is of {other}")
    if profile.fits is None:
        raise InvalidSpec(
            FLAG, path, f"a profile with enough points; it has {len(profile.points)} of {profile.planned}"
        )
    return profile


def find_profile(config: AgentConfig, say: Callable[[str], None]) -> Profile | None:
    """The first of PROFILE_FILES in the folder of a `file://` model, or beside its file, that is of this device and model.

    Nobody named it, and a fleet has several kinds of GPU: one that `read_profile` refuses is left aside, and `say` hears why.
    """
    uri = parse_model_uri(config.model_uri, "spec.model.uri")
    if uri.scheme != "file":
        return None
    model = Path(uri.location)
    for path in sorted((model if model.is_dir() else model.parent).glob(PROFILE_FILES)):
        try:
            return read_profile(str(path), config)
        except (InvalidSpec, DeviceError, OSError) as error:
            say(f"left aside: {error}")
    return None


def load_profile(path: str) -> Profile:
    """The file behind `--profile`, whatever it is about. Raises: InvalidSpec."""
    return decode_profile(_read(path), FLAG, path)


def _read(path: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InvalidSpec(FLAG, path, f"a readable file ({error.strerror})") from None
    if len(data) > _LARGEST_BYTES:
        raise InvalidSpec(FLAG, path, "a file of at most 4 MiB")
    return data
