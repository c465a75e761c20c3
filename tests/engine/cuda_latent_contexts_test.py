"""Where the contexts of prompt chunks lie in the pages of latents, one after the other."""

from __future__ import annotations

import pytest
import torch
from asks_no_host import AsksNoHost

from semipd_engine.cuda_model.device_batch import ChunkSpan, latent_contexts

BLOCK_TOKENS = 4


@pytest.mark.parametrize(
    ("tables", "contexts", "slots", "starts"),
    [
        pytest.param([[3, 0]], [3], [12, 13, 14], [0, 3], id="part of a page"),
        pytest.param([[2, 1, 0]], [8], [8, 9, 10, 11, 4, 5, 6, 7], [0, 8], id="whole pages, in any order"),
        pytest.param(
            [[5, 1], [2, 0]], [5, 2], [20, 21, 22, 23, 4, 8, 9], [0, 5, 7], id="a long one, then a short"
        ),
        pytest.param(
            [[0, 0]], [6], [0, 1, 2, 3, 0, 1], [0, 6], id="a warm-up, whose pages are the null block"
        ),
    ],
)
def test_contexts_are_read_page_by_page(
    tables: list[list[int]], contexts: list[int], slots: list[int], starts: list[int]
) -> None:
    spans = [ChunkSpan(first=0, last=1, context_tokens=context) for context in contexts]
    given = torch.tensor(tables, dtype=torch.int32), torch.tensor(contexts, dtype=torch.int32)
    with AsksNoHost():
        found = latent_contexts(spans, *given, BLOCK_TOKENS)
    assert (found.slots.tolist(), found.starts.tolist()) == (slots, starts)
    assert (found.slots.dtype, found.starts.dtype) == (torch.int64, torch.int32)
