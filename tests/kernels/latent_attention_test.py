"""The cache that the engine on CPU fills with latents is the one that the kernel for decode reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_process import KernelProcess
from local_engine import FreeTurns, Request, attach_locally, build_engine_config, build_plan
from paged_rows import assert_near
from tiny_family import V2, write_tiny_family
from torch import Tensor

from semipd_engine.model.executor import Executor

pytestmark = pytest.mark.slow

PROMPT_TOKENS = [50, 3, 17]
WIDTH = 4  # blocks


def test_the_kernel_mixes_what_the_engine_mixes(tmp_path: Path, interpreter: KernelProcess) -> None:
    config = build_engine_config(
        tmp_path, f"file://{write_tiny_family(tmp_path / 'model', 'deepseek_v2', **V2)}"
    )
    executor = Executor.build(config, attach_locally(config))
    tables = torch.randperm(len(PROMPT_TOKENS) * WIDTH).view(-1, WIDTH).to(torch.int32) + 1
    requests = [
        Request(slot, range(5, 6 + tokens), tables[slot].tolist())
        for slot, tokens in enumerate(PROMPT_TOKENS)
    ]
    executor.execute(build_plan(*[r.row(len(r.tokens) - 1) for r in requests]), FreeTurns())

    attention = executor._decoder._layers[-1].attention
    asked, mixed = watch(attention, "_absorb"), watch(attention, "_decode")
    executor.execute(build_plan(*[r.row(1) for r in requests]), FreeTurns())

    contexts = sorted(len(request.tokens) for request in requests)  # the engine's order of rows
    rows = sorted(range(len(requests)), key=lambda row: len(requests[row].tokens))
    latent = attention._latent
    answer = interpreter.call(
        "mla_attention.mla_decode",
        asked[0].clone(),
        attention._kv.clone(),
        tables[rows].contiguous(),
        torch.tensor(contexts, dtype=torch.int32),
        latent_dim=latent.kv_lora_rank,
        scale=latent.softmax_scale,
    )
    assert_near(answer, mixed[0].double())


def watch(attention: Any, name: str) -> list[Tensor]:
    """What a method of it returns from here on."""
    method, seen = getattr(attention, name), []

    def keep(*args: Any) -> Tensor:
        seen.append(method(*args))
        return seen[-1]

    setattr(attention, name, keep)
    return seen
