"""What attention kernels are given, checked once per call on shapes and strides alone: nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


def check_cache(query: Tensor, kv: Tensor) -> None:
    """query: (tokens, heads, dim); kv: (2, blocks, block_tokens, kv_heads, dim), one layer of the engine's arena.

    Raises: ValueError.
    """
    check_query(query, kv.dtype)
    if kv.ndim != 5 or kv.shape[0] != 2 or kv.stride(4) != 1:
        given = f"shape {tuple(kv.shape)}, strides {kv.stride()}"
        raise ValueError(f"kv: {given}; allowed: (2, blocks, block_tokens, kv_heads, dim), dim contiguous")
    heads, dim = query.shape[1:]
    if dim != kv.shape[4] or heads % kv.shape[3]:
        raise ValueError(
            f"query: heads {heads}, dim {dim}; allowed: a multiple of {kv.shape[3]} heads, dim {kv.shape[4]}"
        )


def check_query(query: Tensor, cache_dtype: torch.dtype) -> None:
    """Raises: ValueError."""
    if query.ndim != 3 or query.stride(2) != 1:
        given = f"shape {tuple(query.shape)}, strides {query.stride()}"
        raise ValueError(f"query: {given}; allowed: (tokens, heads, dim), dim contiguous")
    if query.dtype not in DTYPES or query.dtype != cache_dtype:
        allowed = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPES)
        raise ValueError(
            f"dtype: query {query.dtype}, cache {cache_dtype}; allowed: both the same of {allowed}"
        )


def check_rows(block_tables: Tensor, context_tokens: Tensor, rows: int) -> None:
    """block_tables: (rows, blocks) int32; context_tokens: (rows) int32.

    Raises: ValueError.
    """
    if block_tables.ndim != 2 or len(block_tables) != rows or block_tables.stride(1) != 1:
        raise ValueError(f"block_tables: shape {tuple(block_tables.shape)}; allowed: ({rows}, blocks)")
    if tuple(context_tokens.shape) != (rows,) or not context_tokens.is_contiguous():
        raise ValueError(f"context_tokens: shape {tuple(context_tokens.shape)}; allowed: ({rows},)")
    for name, tensor in (("block_tables", block_tables), ("context_tokens", context_tokens)):
        if tensor.dtype != torch.int32:
            raise ValueError(f"{name}: {tensor.dtype}; allowed: torch.int32")
