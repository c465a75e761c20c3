"""On which shapes kernels are timed and checked: a GPU's, and tiny ones for the interpreter."""

from __future__ import annotations

from collections.abc import Iterator

from kernel_cases import FLASHINFER, Case

LLAMA_WEIGHTS = ((6144, 4096), (4096, 4096), (28_672, 4096), (4096, 14_336))  # of Llama 3.1 8B: rows, columns


def full_cases() -> Iterator[Case]:
    for batch, context in [
        (1, 1024),
        (1, 131_072),
        (8, 1024),
        (64, 256),
        (64, 1024),
        (64, 8192),
        (256, 1024),
        (256, 2048),
    ]:
        yield Case(kernel="decode", shape={"contexts": [context] * batch})
    yield Case(kernel="decode", shape={"contexts": [64 * (1 + row % 64) for row in range(128)]})
    for dtype, page in [("bf16", 16), ("bf16", 32), ("fp16", 64), ("fp32", 64)]:
        yield Case(kernel="decode", shape={"contexts": [1024] * 64, "dtype": dtype, "block_tokens": page})
    for chunks in (
        [(0, 512)],
        [(0, 1024)],
        [(0, 2048)],
        [(0, 8192)],
        [(8192, 1024)],
        [(0, 256)] * 8,
        [(100, 37), (0, 900), (3000, 1)],
    ):
        yield Case(kernel="prefill", shape={"chunks": chunks})
    for dtype in ("fp16", "fp32"):
        yield Case(kernel="prefill", shape={"chunks": [(0, 1024)], "dtype": dtype})
    for batch, context, heads in [
        (1, 4096, 16),
        (64, 1024, 16),
        (64, 4096, 16),
        (256, 1024, 16),
        (64, 1024, 128),
    ]:
        yield Case(kernel="mla", shape={"contexts": [context] * batch, "heads": heads})
    for chunks in (
        [(0, 1024)],
        [(0, 8192)],
        [(8192, 1024)],
        [(30_000, 64)],
        [(0, 256)] * 8,
        [(100, 37), (0, 900), (3000, 1)],
    ):
        yield Case(kernel="mla_prefill", shape={"chunks": chunks})
    yield Case(kernel="mla_prefill", shape={"chunks": [(8192, 1024)], "heads": 128})
    yield from _flashinfer_cases()
    for kernel in ("latent_store", "rope_store", "rms_norm", "silu_mul"):
        for tokens in (1, 64, 256, 2048, 8192):
            yield Case(kernel=kernel, shape={"tokens": tokens})
    for rows, columns in LLAMA_WEIGHTS:
        for tokens in (1, 16, 32, 64, 128, 256, 2048):
            for product in ("w8a16", "w8a16_blocks", "scaled", "bf16"):
                shape = {"product": product, "tokens": tokens, "rows": rows, "columns": columns}
                yield Case(kernel="fp8", shape=shape)
    for rows in (1, 64, 256):
        for cuts in ("none", "top_k", "top_p", "both"):
            yield Case(kernel="sample", shape={"rows": rows, "cuts": cuts})


def _flashinfer_cases() -> Iterator[Case]:
    """Shapes that our own kernels are timed on too."""
    for batch, context in [(1, 1024), (1, 131_072), (64, 1024), (64, 8192), (256, 1024)]:
        yield Case(kernel="decode", shape={"contexts": [context] * batch, "by": FLASHINFER})
    for chunks in ([(0, 1024)], [(0, 2048)], [(0, 8192)], [(8192, 1024)], [(0, 256)] * 8):
        yield Case(kernel="prefill", shape={"chunks": chunks, "by": FLASHINFER})
    for batch, context, heads in [(64, 1024, 16), (64, 4096, 16), (64, 1024, 128)]:
        yield Case(kernel="mla", shape={"contexts": [context] * batch, "heads": heads, "by": FLASHINFER})


def tiny_cases() -> Iterator[Case]:
    """The same on shapes for the interpreter."""
    small = {"heads": 4, "kv_heads": 2, "dim": 16, "block_tokens": 16}
    yield Case(kernel="decode", shape={"contexts": [40, 3], **small})
    yield Case(kernel="prefill", shape={"chunks": [(5, 20), (0, 9)], **small})
    yield Case(
        kernel="mla", shape={"contexts": [40, 3], "heads": 4, "latent": 32, "rope": 16, "block_tokens": 16}
    )
    latent = {"heads": 3, "nope": 24, "rope": 16, "latent": 32, "block_tokens": 16}
    yield Case(kernel="mla_prefill", shape={"chunks": [(5, 20), (0, 9)], "value": 20, **latent})
    yield Case(kernel="decode", shape={"contexts": [40, 3], **small, "by": FLASHINFER})
    yield Case(kernel="latent_store", shape={"tokens": 3, **latent})
    yield Case(kernel="rope_store", shape={"tokens": 3, **small})
    yield Case(kernel="rms_norm", shape={"tokens": 3, "hidden": 40})
    yield Case(kernel="silu_mul", shape={"tokens": 3, "inner": 40})
    for product in ("w8a16", "w8a16_blocks", "scaled", "bf16"):
        yield Case(kernel="fp8", shape={"product": product, "tokens": 3, "rows": 48, "columns": 256})
    for cuts in ("none", "top_k", "top_p", "both"):
        yield Case(kernel="sample", shape={"rows": 2, "cuts": cuts, "vocab": 200})
