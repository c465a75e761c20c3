"""Every family gives the CPU's logits and tokens on the executor of a GPU, whose kernels are interpreted here."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from cpu_steps import CpuSteps, assert_same
from fp8_checkpoints import BLOCKS, ROWS, Scheme, write_both
from interpreted_executor import InterpretedExecutor
from local_engine import Request, build_engine_config
from tiny_family import V2, V2_LITE, YARN, write_tiny_family

from semipd_core import messages
from semipd_core.engine_config import AttentionKernels
from semipd_core.partition import Role
from semipd_engine.memory import loading

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only"),
]

GREEDY = messages.Sampling()
SEEDED = messages.Sampling(temperature=0.8, top_k=20, seed=5)
NUCLEUS = messages.Sampling(temperature=1.0, top_p=0.9, seed=11, logprob=True)
GROUPED = {"num_key_value_heads": 2, "num_hidden_layers": 1}
LITE = V2_LITE | {"num_hidden_layers": 2}  # one without experts, one with
WITH_EXPERTS_ALONE = {"num_hidden_layers": 1, "first_k_dense_replace": 0}
LOOPED = V2_LITE | WITH_EXPERTS_ALONE | {"moe_intermediate_size": 46}  # rows of no whole 16 bytes

FAMILIES = [
    pytest.param("deepseek_v2", LITE, id="DeepSeek-V2-Lite: queries at once, greedy experts"),
    pytest.param(
        "deepseek_v2",
        V2 | WITH_EXPERTS_ALONE | {"rope_scaling": YARN | {"mscale": 1.3}},
        id="DeepSeek-V2: queries by a latent, experts in groups, longer rotated keys",
    ),
    pytest.param("qwen2", GROUPED | {"rope_scaling": {**YARN, "mscale": None}}, id="Qwen2: biases, and yarn"),
    pytest.param("qwen3", GROUPED | {"head_dim": 32}, id="Qwen3: norms of Q and K"),
]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[InterpretedExecutor]:
    """One process for all of them: each test builds its own executor there."""
    executor = InterpretedExecutor()
    yield executor
    executor.stop()


def write_family(directory: Any, model_type: str, settings: dict[str, Any]) -> str:
    return f"file://{write_tiny_family(directory / 'model', model_type, seed=3, **settings)}"


def build_config(directory: Any, uri: str, dtype: str = "FP32") -> Any:
    return build_engine_config(
        directory,
        uri,
        dtype=dtype,
        max_rows=4,
        max_context_tokens=64,
        prefill_budget_tokens=24,
        mixed_budget_tokens=24,
    )


def run_ragged_steps(cpu: CpuSteps) -> list[int | None]:
    """Chunks with and without a past, single rows beside them, run-ahead. Returns the graph of each step, where there are any."""
    long = Request(0, range(5, 38), [7, 3, 12], GREEDY)
    other = Request(3, [300, *range(60, 80)], [9, 2], SEEDED)
    single = Request(5, [17], [4, 5], NUCLEUS)
    cpu.run({long: long.row(17), other: other.row(2)})  # no token is wanted
    cpu.run({single: single.row(1), other: other.row(19)})  # nearly all of it new
    cpu.run({long: long.row(16), other: other.row(1, run_ahead=True)})  # as much past as new
    cpu.run({request: request.row(1, run_ahead=True) for request in (single, long, other)})
    cpu.run({request: request.row(1, run_ahead=True) for request in (other, long)})
    return [None, None, None, 4, 2]


@pytest.mark.parametrize(("model_type", "settings"), FAMILIES)
def test_chunks_ragged_rows_run_ahead_and_padded_graphs_give_the_logits_and_tokens_of_the_cpu(
    tmp_path: Any, interpreted: InterpretedExecutor, model_type: str, settings: dict[str, Any]
) -> None:
    config = build_config(tmp_path, write_family(tmp_path, model_type, settings))
    interpreted.call("build", config, Role.MIXED)
    assert interpreted.call("warm_up") == [4, 2, 1]
    cpu = CpuSteps(config)
    graphs = run_ragged_steps(cpu)
    assert assert_same(interpreted, cpu, layers=1) == graphs
    assert interpreted.call("null_block_is_finite")


@pytest.mark.parametrize(
    ("model_type", "settings", "scheme"),
    [
        pytest.param("qwen2", GROUPED, ROWS, id="Qwen2: biases, a scale per row"),
        pytest.param("deepseek_v2", V2 | WITH_EXPERTS_ALONE, BLOCKS, id="DeepSeek-V2, a scale per block"),
    ],
)
def test_weights_in_fp8_give_the_logits_and_tokens_of_the_cpu(
    tmp_path: Any,
    interpreted: InterpretedExecutor,
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    settings: dict[str, Any],
    scheme: Scheme,
) -> None:
    monkeypatch.setattr(loading, "cpu_flags", lambda _: frozenset())  # as the interpreted executor: fp32
    uri, _ = write_both(write_tiny_family(tmp_path / "model", model_type, seed=3, **settings), scheme)
    config = build_config(tmp_path, uri, dtype="FP8")
    interpreted.call("build", config, Role.MIXED)
    assert interpreted.call("warm_up") == [4, 2, 1]
    cpu = CpuSteps(config)
    graphs = run_ragged_steps(cpu)
    assert assert_same(interpreted, cpu) == graphs


@pytest.mark.parametrize(
    ("model_type", "settings"),
    [
        pytest.param("qwen3", GROUPED | {"head_dim": 32}, id="grouped-query"),
        pytest.param("deepseek_v2", LITE, id="over latents"),
    ],
)
def test_attention_by_a_library_that_the_host_plans_gives_the_same(
    tmp_path: Any, interpreted: InterpretedExecutor, model_type: str, settings: dict[str, Any]
) -> None:
    config = build_config(tmp_path, write_family(tmp_path, model_type, settings))
    interpreted.call("build", config, Role.MIXED, 0, "documented_flashinfer")
    assert interpreted.call("warm_up") == [4, 2, 1]
    cpu = CpuSteps(config)
    graphs = run_ragged_steps(cpu)
    assert assert_same(interpreted, cpu) == graphs


def test_a_library_that_cannot_serve_here_is_an_invalid_setting(
    tmp_path: Any, interpreted: InterpretedExecutor
) -> None:
    config = build_config(tmp_path, write_family(tmp_path, "qwen3", GROUPED | {"head_dim": 32}))
    asking = msgspec.structs.replace(config, attention_kernels=AttentionKernels.FLASHINFER)
    with pytest.raises(RuntimeError, match=r"InvalidSpec: SEMIPD_ATTENTION_KERNELS.*FlashInfer"):
        interpreted.call("build", asking, Role.MIXED)


@pytest.mark.parametrize("role", [Role.MIXED, Role.DECODE])
def test_experts_that_ask_the_host_are_in_no_graph(
    tmp_path: Any, interpreted: InterpretedExecutor, role: Role
) -> None:
    config = build_config(tmp_path, write_family(tmp_path, "deepseek_v2", LOOPED))
    interpreted.call("build", config, role)
    assert interpreted.call("warm_up") == []
    cpu = CpuSteps(config)
    if role is Role.MIXED:
        run_ragged_steps(cpu)
    else:
        requests = [Request(slot, [30 + slot], [1 + slot]) for slot in range(4)]
        cpu.run({request: request.row(1) for request in requests})
        cpu.run({request: request.row(1, run_ahead=True) for request in requests[1:]})
    assert set(assert_same(interpreted, cpu)) == {None}
