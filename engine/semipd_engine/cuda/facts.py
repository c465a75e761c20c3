"""What the memory server knows of the GPU and of its surroundings before it takes any memory."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from semipd_engine.cuda.driver import Driver

ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    uuid: str
    name: str
    compute_capability: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """CUDA versions as (major, minor)."""

    driver_cuda: tuple[int, int]  # the newest that the driver speaks
    torch_cuda: tuple[int, int] | None  # what torch was built for; None: for CPUs, or there is no torch
    gpus: tuple[Gpu, ...]  # in the order of this process's ordinals
    allocator_settings: Mapping[str, str]  # those of ALLOCATOR_SETTINGS that are set


def read_facts(
    driver: Driver, environment: Mapping[str, str], torch_cuda: Callable[[], tuple[int, int] | None]
) -> Facts:
    """Raises: CudaError."""
    driver.init()
    version = driver.version()
    gpus = tuple(
        Gpu(
            uuid=driver.uuid(index),
            name=driver.name(index),
            compute_capability=driver.compute_capability(index),
        )
        for index in range(driver.count())
    )
    return Facts(
        driver_cuda=(version // 1000, version % 1000 // 10),
        torch_cuda=torch_cuda(),
        gpus=gpus,
        allocator_settings={name: environment[name] for name in ALLOCATOR_SETTINGS if name in environment},
    )


def read_torch_cuda() -> tuple[int, int] | None:
    """Of the torch that lanes will import, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    return parse_torch_cuda((Path(spec.origin).parent / "version.py").read_text())


def parse_torch_cuda(version_module: str) -> tuple[int, int] | None:
    """From the text of torch/version.py."""
    found = re.search(r"^cuda\b.*=\s*['\"](\d+)\.(\d+)", version_module, re.MULTILINE)
    return (int(found[1]), int(found[2])) if found else None
