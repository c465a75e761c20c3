"""How a GPU's memory is divided between weights, KV cache and what the lanes need for themselves. Pure; bytes.

LANES_FRACTION is an assumption until a GPU has measured it: a lane's context, cuBLAS workspaces, CUDA graphs and activations,
for the lanes that serve and those that are about to take over from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.errors import InvalidSpec
from semipd_engine.memory.budget import num_kv_blocks
from semipd_engine.model.config import ModelConfig

LANES_FRACTION = 10  # one part in so many of the GPU's memory
LANES_BYTES_MIN = 4 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuMemory:
    gpu: str  # UUID
    free_bytes: int
    total_bytes: int

    @property
    def lane_bytes(self) -> int:
        """Left to the lanes."""
        return max(self.total_bytes // LANES_FRACTION, LANES_BYTES_MIN)

    @property
    def arena_bytes(self) -> int:
        """What the arenas may take now."""
        return max(0, self.free_bytes - self.lane_bytes)

    def __str__(self) -> str:
        return (
            f"{self.gpu} has {self.total_bytes} bytes, {self.free_bytes} of them free, "
            f"and {self.lane_bytes} are left to the lanes"
        )


def awaited_free_bytes(memory: GpuMemory, weights_bytes: int, wanted_kv_bytes: int | None) -> int:
    """Worth waiting for: what is wanted, or what a GPU that nobody else uses would give.

    The lanes and the memory server before this one may just be going.
    """
    unused = memory.total_bytes - memory.lane_bytes
    if wanted_kv_bytes is None:
        return unused
    return min(unused, weights_bytes + wanted_kv_bytes + memory.lane_bytes)


def check_weights(memory: GpuMemory, weights_bytes: int, described: str) -> None:
    """Raises: InvalidSpec if `described` does not fit."""
    if weights_bytes > memory.arena_bytes:
        allowed = f"a model of at most {memory.arena_bytes} bytes: {memory}"
        raise InvalidSpec("spec.model.uri", f"{described}, {weights_bytes} bytes", allowed)


def num_device_blocks(
    model: ModelConfig,
    memory: GpuMemory,
    *,
    weights_bytes: int,
    block_tokens: int,
    max_rows: int,
    wanted_bytes: int | None,
    num_ranks: int = 1,
) -> int:
    """KV blocks; without a wish as many as are of use and fit. Raises: InvalidSpec with the numbers.

    With several ranks `model`, `memory` and `weights_bytes` are one rank's, and what is wanted is for all of them.
    """
    left_bytes = num_ranks * (memory.arena_bytes - weights_bytes)
    each = f", on each of {num_ranks} GPUs" if num_ranks > 1 else ""
    return num_kv_blocks(
        model,
        block_tokens=block_tokens,
        max_rows=max_rows,
        wanted_bytes=wanted_bytes,
        free_bytes=left_bytes,
        default_bytes=left_bytes,
        free_means=f"what {weights_bytes} bytes of weights leave{each}: {memory}",
        num_ranks=num_ranks,
    )
