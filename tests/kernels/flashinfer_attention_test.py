"""Attention through FlashInfer's documented interface answers what the engine on CPU answers; the library itself is a fake."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import documented_flashinfer
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_device import InlineDevice
from paged_rows import PagedRows, Shape, assert_near, build_paged_rows

from semipd_core import messages
from semipd_engine.cuda_model.attention_choice import AttentionShape
from semipd_engine.cuda_model.attention_kernels import HostRows
from semipd_engine.cuda_model.block_tables import BlockTables
from semipd_engine.cuda_model.flashinfer_attention import FlashInferAttention
from semipd_engine.model.config import LatentConfig

FP32 = "FP32"  # the fake takes it, so that rounding hides nothing
FROM_THE_PLAN: Any = None  # in place of the batch, whose tensors FlashInfer does not read


def build(rows: PagedRows, device: InlineDevice | None = None, **shape: Any) -> FlashInferAttention:
    """Of a lane whose slots are the rows, in the order that the fixture has them."""
    block_tokens, width = rows.shape.block_tokens, rows.block_tables.shape[1]
    device = device or InlineDevice()
    tables = BlockTables(
        num_slots=len(rows.new),
        max_context_tokens=width * block_tokens,
        block_tokens=block_tokens,
        device=device.torch_device,
    )
    tables.apply([_held(slot, blocks) for slot, blocks in enumerate(rows.block_tables.tolist())])
    known = AttentionShape(
        num_heads=rows.shape.heads,
        num_kv_heads=rows.shape.kv_heads,
        head_dim=rows.shape.dim,
        dtype="BF16" if rows.shape.dtype is torch.bfloat16 else FP32,
        latent=shape.get("latent"),
    )
    return FlashInferAttention(documented_flashinfer, known, tables, device, max_rows=len(rows.new) + 2)


def _held(slot: int, blocks: list[int]) -> messages.Row:
    return messages.Row(slot=slot, start=0, tokens=[0], blocks_from=0, blocks=blocks, sampling=None)


def of_host(rows: PagedRows, singles: int, graph_rows: int | None = None) -> HostRows:
    return HostRows(
        slots=np.arange(len(rows.new)),
        contexts=rows.context_tokens.numpy().astype(np.int64),
        token_starts=np.cumsum([0, *rows.new[singles:]]),
        graph_rows=graph_rows,
    )


def attend(attention: FlashInferAttention, rows: PagedRows, singles: int) -> torch.Tensor:
    attention.plan(of_host(rows, singles))
    parts = []
    if singles:
        parts.append(attention.decode(rows.query[:singles], rows.kv, FROM_THE_PLAN))
    if singles < len(rows.new):
        parts.append(attention.prefill(rows.query[singles:], rows.kv, FROM_THE_PLAN))
    return torch.cat(parts)


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(Shape(), id="pages of 16"),
        pytest.param(Shape(block_tokens=1), id="pages of one token"),
        pytest.param(Shape(block_tokens=64, dtype=torch.bfloat16), id="bf16, pages of 64"),
        pytest.param(Shape(heads=3, kv_heads=3), id="as many KV heads as query heads"),
        pytest.param(Shape(heads=7, kv_heads=1, dim=24), id="a group of seven"),
    ],
)
def test_rows_and_chunks_of_one_step_are_attended_as_on_cpu(shape: Shape) -> None:
    rows = build_paged_rows(shape, cached=[0, 15, 16, 99, 0, 7, 64], new=[1, 1, 1, 1, 40, 33, 2])
    assert_near(attend(build(rows), rows, singles=4), rows.attend_on_cpu())


@settings(max_examples=15)
@given(
    singles=st.lists(st.integers(0, 80), max_size=4),
    chunks=st.lists(st.tuples(st.integers(0, 50), st.integers(2, 40)), max_size=3),
    block_tokens=st.sampled_from([1, 5, 16, 32]),
    seed=st.integers(0, 99),
)
def test_any_ragged_step_is_attended_right(
    singles: list[int], chunks: list[tuple[int, int]], block_tokens: int, seed: int
) -> None:
    if not singles and not chunks:
        return
    cached, new = [*singles, *(past for past, _ in chunks)], [1] * len(singles) + [more for _, more in chunks]
    rows = build_paged_rows(Shape(block_tokens=block_tokens), cached, new, seed)
    assert_near(attend(build(rows), rows, len(singles)), rows.attend_on_cpu())


def test_one_graph_serves_steps_of_other_rows_and_lengths() -> None:
    rows = build_paged_rows(Shape(), cached=[30, 3, 70], new=[1, 1, 1])
    rows.kv[:, 0] = 1.0  # the null block, which what pads a graph writes to
    attention = build(rows)
    query = torch.cat([rows.query, rows.query[:1]])

    attention.plan(HostRows.padding(4))
    captured = attention._decode
    assert torch.equal(attention.decode(query, rows.kv, FROM_THE_PLAN), torch.ones_like(query))
    attention.plan(of_host(rows, 3, graph_rows=4))
    assert attention._decode is captured, "what was captured knows this one's buffers"
    answer = attention.decode(query, rows.kv, FROM_THE_PLAN)
    assert_near(answer[:3], rows.attend_on_cpu())
    assert torch.equal(answer[3], torch.ones_like(answer[3]))


@pytest.mark.parametrize("graph_rows", [None, 5])
def test_latents_are_keys_and_without_their_rotary_part_values(graph_rows: int | None) -> None:
    latent = LatentConfig(
        q_lora_rank=None,
        kv_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
        softmax_scale=0.2,
    )
    shape = Shape(heads=4, kv_heads=1, dim=48)
    rows = build_paged_rows(shape, cached=[0, 15, 32, 149], new=[1] * 4)
    latents = rows.kv[0, :, :, 0]
    latents[0] = 0.0
    attention = build(rows, latent=latent)
    attention.plan(of_host(rows, 4, graph_rows))
    asked = torch.cat([rows.query, rows.query])[: graph_rows or 4]
    answer = attention.decode_latents(asked, latents, FROM_THE_PLAN)
    for row, context in enumerate(rows.context_tokens.tolist()):
        entries = latents[rows.block_tables[row].long()].flatten(0, 1)[:context].double()
        weights = (rows.query[row].double() @ entries.T * 0.2).softmax(-1)
        assert_near(answer[row], weights @ entries[:, :32])


@dataclass(slots=True)
class RecordingDevice(InlineDevice):
    """A mark keeps what was to be copied when it was made; whoever waits for it must find that still there."""

    pinned: list[torch.Tensor] = field(default_factory=list)
    waited: int = 0

    def host_buffer(self, num_bytes: int) -> torch.Tensor:
        self.pinned.append(torch.zeros(num_bytes, dtype=torch.uint8))
        return self.pinned[-1]

    def mark(self) -> object:
        return [buffer.clone() for buffer in self.pinned]

    def wait(self, mark: Any) -> None:
        assert all(torch.equal(then, now) for then, now in zip(mark, self.pinned, strict=True))
        self.waited += 1


def test_a_plan_waits_for_the_one_before_it_to_have_left_the_host() -> None:
    rows = build_paged_rows(Shape(), cached=[30, 3], new=[1, 9])
    device = RecordingDevice()
    attention = build(rows, device)
    attention.plan(of_host(rows, 1))
    assert device.waited == 0
    attention.plan(of_host(rows, 1))
    attention.plan(HostRows.padding(2))
    assert device.waited == 2


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


PLANNED = {
    "indptr": ints(0, 2, 3),
    "indices": ints(4, 1, 2),
    "last_page_len": ints(3, 16),
    "num_qo_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 16,
    "page_size": 16,
    "q_data_type": torch.float32,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"indptr": ints(0, 2)}, "indptr: 2 entries for 2 rows", id="too few starts"),
        pytest.param({"indptr": ints(0, 3, 2)}, "does not rise from 0", id="starts that fall"),
        pytest.param({"indptr": ints(0, 0, 3)}, "a row without pages", id="a row without pages"),
        pytest.param({"indptr": ints(0, 2, 4)}, "indices: 3 entries", id="more pages than there are"),
        pytest.param({"indptr": ints(0, 2, 3).long()}, "not int32", id="int64"),
        pytest.param({"last_page_len": ints(0, 16)}, "not all 1 to 16", id="an empty last page"),
        pytest.param({"last_page_len": ints(3, 17)}, "not all 1 to 16", id="a last page too full"),
        pytest.param({"num_qo_heads": 3}, "no multiple of 2", id="heads that no KV head shares evenly"),
    ],
)
def test_the_fake_refuses_a_plan_that_contradicts_itself(changes: dict[str, Any], message: str) -> None:
    wrapper = documented_flashinfer.BatchDecodeWithPagedKVCacheWrapper(torch.zeros(1, dtype=torch.uint8))
    with pytest.raises(ValueError, match=message):
        wrapper.plan(**(PLANNED | changes))


def test_the_fake_keeps_a_graphs_wrapper_to_its_rows() -> None:
    wrapper = documented_flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.zeros(1, dtype=torch.uint8),
        use_cuda_graph=True,
        paged_kv_indptr_buffer=ints(0, 0, 0, 0),
        paged_kv_indices_buffer=ints(*[0] * 8),
        paged_kv_last_page_len_buffer=ints(0, 0, 0),
    )
    with pytest.raises(ValueError, match="the batch size should be fixed"):
        wrapper.plan(**PLANNED)
