"""Can an engine run on this GPU at all? Pure. What is refused here waits for the user; a retry would not help.

Source: CUDA Compatibility, "Minor Version Compatibility": a driver runs what was built for any minor version of its major one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from semipd_core.errors import InvalidSpec
from semipd_engine.cuda.devices import FIELD, index_of
from semipd_engine.cuda.facts import Facts, Gpu
from semipd_engine.model.sharding import FIELD as RANKS_FIELD

MIN_COMPUTE_CAPABILITY = (8, 0)  # bf16
FP8_COMPUTE_CAPABILITY = (8, 9)
_EXPANDABLE = re.compile(r"expandable_segments\s*:\s*true", re.IGNORECASE)


def refuse(facts: Facts, gpu: str | None) -> InvalidSpec | None:
    """`gpu`: the UUID that is wanted; None: the first."""
    if facts.torch_cuda is None:
        return InvalidSpec(FIELD, "CUDA with a torch for CPUs", "a torch that is built for CUDA; or CPU")
    if facts.driver_cuda[0] < facts.torch_cuda[0]:
        given = f"CUDA with a driver for CUDA {_version(facts.driver_cuda)}"
        allowed = f"a driver for CUDA {facts.torch_cuda[0]}.0 or later: torch is built for {_version(facts.torch_cuda)}"
        return InvalidSpec(FIELD, given, allowed)
    try:
        index = index_of(gpu, [found.uuid for found in facts.gpus])
    except InvalidSpec as error:
        return error
    found = facts.gpus[index]
    if found.compute_capability < MIN_COMPUTE_CAPABILITY:
        given = f"{found.name} ({found.uuid}) of compute capability {_version(found.compute_capability)}"
        return InvalidSpec(FIELD, given, f"{_version(MIN_COMPUTE_CAPABILITY)} or later")
    return refuse_allocator(facts.allocator_settings)


def refuse_dtype(gpu: Gpu, dtype: str) -> InvalidSpec | None:
    """`dtype`: of the spec. Without instructions that read FP8 only weights that are dequantized at load are of use."""
    if dtype != "FP8" or gpu.compute_capability >= FP8_COMPUTE_CAPABILITY:
        return None
    given = f"FP8 on {gpu.name} ({gpu.uuid}) of compute capability {_version(gpu.compute_capability)}"
    allowed = (
        f"FP8 from compute capability {_version(FP8_COMPUTE_CAPABILITY)} on; "
        "here Auto, BF16 or FP32, which dequantize such weights at load"
    )
    return InvalidSpec("spec.model.dtype", given, allowed)


def refuse_ranks(facts: Facts, gpus: Sequence[str | None]) -> InvalidSpec | None:
    """`gpus`: each rank's. They are one model's, as the slowest would set the pace and a share would be other SMs on each."""
    refusals = [refusal for gpu in gpus if (refusal := refuse(facts, gpu)) is not None]
    if refusals:
        return refusals[0]
    found = [facts.gpus[index_of(gpu, [each.uuid for each in facts.gpus])] for gpu in gpus]
    described = ", ".join(f"{gpu.name} ({gpu.uuid})" for gpu in found)
    if len({gpu.uuid for gpu in found}) < len(found):
        return InvalidSpec(RANKS_FIELD, f"{len(found)} on {described}", "a GPU for each rank")
    if len({(gpu.name, gpu.compute_capability) for gpu in found}) > 1:
        return InvalidSpec(RANKS_FIELD, f"{len(found)} on {described}", "GPUs of one model")
    return None


def refuse_allocator(environment: Mapping[str, str]) -> InvalidSpec | None:
    """Expandable segments are shared by `pidfd_getfd`, which containers without privileges forbid."""
    for name, value in environment.items():
        if "ALLOC_CONF" in name and _EXPANDABLE.search(value):
            return InvalidSpec(name, value, "a value without expandable_segments:True")
    return None


def _version(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))
