"""From an engine's config to filled arenas, with progress in the log."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import structlog

from semipd_core.engine_config import EngineConfig
from semipd_core.errors import InvalidSpec
from semipd_engine.memory.arena import Arena
from semipd_engine.memory.budget import free_memory_bytes, num_kv_blocks
from semipd_engine.memory.manifest import CONTROL_BYTES, Manifest
from semipd_engine.model import layout, sources, weights
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import cpu_flags, resolve_dtype
from semipd_shell.files import write_atomically

PROGRESS_EVERY_S = 1.0


class Arenas:
    """Filled arenas and their manifest, ready to be handed out."""

    def __init__(self, manifest: Manifest, weights_fd: int) -> None:
        """`weights_fd` is read-only."""
        self.manifest = manifest
        self.kv = Arena("semipd-kv", manifest.kv_bytes)
        self.control = Arena("semipd-control", CONTROL_BYTES)
        self.fds = [weights_fd, self.kv.fd, self.control.fd]


def prepare(config: EngineConfig, log: structlog.stdlib.BoundLogger) -> Arenas:
    """Resolve the model, write `model/`, load the weights.

    Raises: InvalidSpec for whatever the user must change, before weights are read wherever that is possible.
    """
    started_s = time.monotonic()
    source = sources.open_source(config.model_uri)
    dtype = resolve_dtype(config.dtype, cpu_flags(Path("/proc/cpuinfo").read_text()))
    model = source.read_config(dtype, config.max_context_tokens)
    tensors = list(layout.fused_tensors(model))
    weights.check(tensors, source)
    entries, weights_bytes = layout.place(iter(tensors), dtype)
    free_bytes = free_memory_bytes(Path("/proc/meminfo").read_text())
    if weights_bytes > free_bytes:
        raise InvalidSpec(
            "spec.model.uri",
            f"{source.location}, {weights_bytes} bytes in {dtype}",
            f"a model of at most {free_bytes} bytes, the free memory",
        )
    num_blocks = num_kv_blocks(
        model,
        block_tokens=config.block_tokens,
        max_rows=config.max_rows,
        wanted_bytes=config.kv_bytes,
        free_bytes=free_bytes - weights_bytes,
    )
    _write_model_directory(Path(config.model_directory), model, source)
    log.info("model resolved", source=source.location, dtype=dtype, num_blocks=num_blocks)
    weights_fd = _load(tensors, entries, weights_bytes, source, log)
    manifest = Manifest(
        model=model,
        weights=entries,
        weights_bytes=weights_bytes,
        num_blocks=num_blocks,
        block_tokens=config.block_tokens,
    )
    seconds = round(time.monotonic() - started_s, 2)
    log.info("arenas ready", weights_bytes=weights_bytes, kv_bytes=manifest.kv_bytes, seconds=seconds)
    return Arenas(manifest, weights_fd)


def _write_model_directory(directory: Path, model: ModelConfig, source: sources.ModelSource) -> None:
    """`model.json` comes last: where it is, the other files are."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    source.write_tokenizer(directory)
    write_atomically(directory / "model.json", msgspec.json.encode(model))


def _load(
    tensors: list[layout.FusedTensor],
    entries: list[layout.TensorEntry],
    weights_bytes: int,
    source: sources.ModelSource,
    log: structlog.stdlib.BoundLogger,
) -> int:
    """A sealed, read-only descriptor of the weights."""
    arena = Arena("semipd-weights", weights_bytes)
    reported_s = time.monotonic()

    def report(written_bytes: int) -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s >= PROGRESS_EVERY_S:
            reported_s = time.monotonic()
            log.info("loading weights", percent=100 * written_bytes // weights_bytes)

    with arena.map() as mapping, memoryview(mapping) as view:
        weights.load(tensors, entries, source, view, report)
    read_only_fd = arena.seal_contents()
    arena.close()
    return read_only_fd
