"""How large the KV cache is: what the user asks for, or what this machine can give without harm."""

from __future__ import annotations

from semipd_core.errors import InvalidSpec
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import ITEM_BYTES

DEFAULT_BYTES_MAX = 512 << 20
DEFAULT_MEMORY_FRACTION = 8  # at most one part in so many of the free memory
NULL_BLOCKS = 1  # block 0 pads block tables and is never allocated


def num_kv_blocks(
    model: ModelConfig,
    *,
    block_tokens: int,
    max_rows: int,
    wanted_bytes: int | None,
    free_bytes: int,
    default_bytes: int | None = None,
    free_means: str = "the free memory",
    num_ranks: int = 1,
) -> int:
    """Blocks of `block_tokens` tokens in all layers, the null block included.

    With several ranks `model` is one rank's shard: each holds its own part of every block, and the bytes are those of all.
    Without a wish: enough for `max_rows` sequences of the whole context, within `default_bytes`: on a host, DEFAULT_BYTES_MAX
    and an eighth of the free memory. `free_means`: what `free_bytes` are, in an error.
    Raises: InvalidSpec if one request of the whole context does not fit, or if more is wanted than is free.
    """
    block_bytes = num_ranks * block_tokens * model.kv_bytes_per_token(ITEM_BYTES[model.dtype])
    blocks_per_request = -(-model.max_context_tokens // block_tokens)
    if wanted_bytes is None:
        useful_bytes = (max_rows * blocks_per_request + NULL_BLOCKS) * block_bytes
        if default_bytes is None:
            default_bytes = min(DEFAULT_BYTES_MAX, free_bytes // DEFAULT_MEMORY_FRACTION)
        kv_bytes = min(useful_bytes, default_bytes)
    else:
        kv_bytes = wanted_bytes
    needed_bytes = (blocks_per_request + NULL_BLOCKS) * block_bytes
    if kv_bytes < needed_bytes:
        given = (
            f"{kv_bytes} bytes" if wanted_bytes is not None else f"nothing, and {kv_bytes} bytes by default"
        )
        raise InvalidSpec(
            "spec.resources.kvCache",
            given,
            f"at least {needed_bytes} bytes, one request of {model.max_context_tokens} tokens in {model.dtype}; "
            "or a smaller spec.model.maxContextTokens",
        )
    if kv_bytes > free_bytes:
        raise InvalidSpec(
            "spec.resources.kvCache", f"{kv_bytes} bytes", f"at most {free_bytes} bytes, {free_means}"
        )
    return kv_bytes // block_bytes


def free_memory_bytes(meminfo: str) -> int:
    """MemAvailable of a text of /proc/meminfo."""
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    raise ValueError("no MemAvailable in meminfo")
