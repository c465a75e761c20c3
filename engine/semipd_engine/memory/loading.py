"""From an engine's config to filled arenas, with progress in the log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import structlog

from semipd_core.engine_config import EngineConfig
from semipd_core.errors import InvalidSpec
from semipd_engine.memory.arena import Arena
from semipd_engine.memory.budget import free_memory_bytes, num_kv_blocks
from semipd_engine.memory.manifest import CONTROL_BYTES, Manifest
from semipd_engine.model import layout, sharding, sources, weights
from semipd_engine.model.config import ModelConfig
from semipd_engine.model.dtypes import cpu_flags, resolve_dtype
from semipd_engine.model.fp8_layout import keep_fp8
from semipd_shell.files import write_atomically

PROGRESS_EVERY_S = 1.0


class Arenas:
    """One rank's filled arenas and their manifest, ready to be handed out."""

    def __init__(self, manifest: Manifest, weights_fd: int, control: Arena) -> None:
        """`weights_fd` is read-only; `control` is common to all ranks."""
        self.manifest = manifest
        self.kv = Arena("semipd-kv", manifest.kv_bytes)
        self.fds = [weights_fd, self.kv.fd, os.dup(control.fd)]

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedModel:
    """A checkpoint that was found whole, and where its tensors come to lie: per rank its shard, their entries and bytes."""

    source: sources.ModelSource
    config: ModelConfig
    shards: Sequence[sharding.Shard]
    placed: Sequence[tuple[list[layout.TensorEntry], int]]

    @property
    def weights_bytes(self) -> int:
        """Of all ranks."""
        return sum(num_bytes for _, num_bytes in self.placed)


def resolve_model(config: EngineConfig, dtype: str, log: structlog.stdlib.BoundLogger) -> ResolvedModel:
    """Raises: InvalidSpec, before weights are read."""
    source = sources.open_source(config.model_uri)
    kept = sources.require_fp8(source) if config.dtype == "FP8" else None
    if source.quantization is not None:
        event = "weights are dequantized at load" if kept is None else "weights stay FP8"
        log.info(event, stored=str(source.quantization), dtype=dtype)
    model = source.read_config(dtype, config.max_context_tokens)
    shards = sharding.shard(model, config.num_ranks)
    weights.check(shards[0].tensors, source)
    if kept is not None:
        shards = [replace(each, tensors=keep_fp8(each.tensors, source.row_scales, kept)) for each in shards]
    placed = [layout.place(shard.tensors, dtype) for shard in shards]
    return ResolvedModel(source=source, config=model, shards=shards, placed=placed)


def prepare(config: EngineConfig, log: structlog.stdlib.BoundLogger) -> list[Arenas]:
    """Resolve the model, write `model/`, load the weights into host memory: the arenas of each rank.

    Raises: InvalidSpec for whatever the user must change, before weights are read wherever that is possible.
    """
    started_s = time.monotonic()
    dtype = resolve_dtype(config.dtype, cpu_flags(Path("/proc/cpuinfo").read_text()))
    model = resolve_model(config, dtype, log)
    free_bytes = free_memory_bytes(Path("/proc/meminfo").read_text())
    if model.weights_bytes > free_bytes:
        raise InvalidSpec(
            "spec.model.uri",
            f"{model.source.location}, {model.weights_bytes} bytes in {dtype}",
            f"a model of at most {free_bytes} bytes, the free memory",
        )
    num_blocks = num_kv_blocks(
        model.shards[0].model,
        block_tokens=config.block_tokens,
        max_rows=config.max_rows,
        wanted_bytes=config.kv_bytes,
        free_bytes=free_bytes - model.weights_bytes,
        num_ranks=config.num_ranks,
    )
    write_model_directory(Path(config.model_directory), model.config, model.source)
    log.info("model resolved", source=model.source.location, dtype=dtype, num_blocks=num_blocks)
    arenas = _fill(model, num_blocks, config.block_tokens, log)
    seconds = round(time.monotonic() - started_s, 2)
    kv_bytes = sum(each.manifest.kv_bytes for each in arenas)
    log.info("arenas ready", weights_bytes=model.weights_bytes, kv_bytes=kv_bytes, seconds=seconds)
    return arenas


def _fill(
    model: ResolvedModel, num_blocks: int, block_tokens: int, log: structlog.stdlib.BoundLogger
) -> list[Arenas]:
    weights_fds = _load(model, log)
    control = Arena("semipd-control", CONTROL_BYTES)
    arenas = []
    for shard, (entries, num_bytes), weights_fd in zip(model.shards, model.placed, weights_fds, strict=True):
        manifest = Manifest(
            model=shard.model,
            weights=entries,
            weights_bytes=num_bytes,
            num_blocks=num_blocks,
            block_tokens=block_tokens,
        )
        arenas.append(Arenas(manifest, weights_fd, control))
    control.close()
    return arenas


def write_model_directory(directory: Path, model: ModelConfig, source: sources.ModelSource) -> None:
    """`model.json` comes last: where it is, the other files are."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    source.write_tokenizer(directory)
    write_atomically(directory / "model.json", msgspec.json.encode(model))


def _load(model: ResolvedModel, log: structlog.stdlib.BoundLogger) -> list[int]:
    """A sealed, read-only descriptor of each rank's weights."""
    arenas = [Arena("semipd-weights", num_bytes) for _, num_bytes in model.placed]
    with ExitStack() as views:
        destinations = [
            weights.Destination(
                tensors=shard.tensors,
                entries=entries,
                arena=views.enter_context(memoryview(views.enter_context(arena.map()))),
            )
            for shard, (entries, _), arena in zip(model.shards, model.placed, arenas, strict=True)
        ]
        weights.load_shards(destinations, model.source, report_progress(model.weights_bytes, log))
    read_only_fds = [arena.seal_contents() for arena in arenas]
    for arena in arenas:
        arena.close()
    return read_only_fds


def report_progress(weights_bytes: int, log: structlog.stdlib.BoundLogger) -> Callable[[int], None]:
    """To be told of the bytes written so far; the log hears of them every PROGRESS_EVERY_S."""
    reported_s = time.monotonic()

    def report(written_bytes: int) -> None:
        nonlocal reported_s
        if time.monotonic() - reported_s >= PROGRESS_EVERY_S:
            reported_s = time.monotonic()
            log.info("loading weights", percent=100 * written_bytes // weights_bytes)

    return report
