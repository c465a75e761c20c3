"""FlashInfer on the rows of a case, planned as a lane plans it; where it cannot serve, why not."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from semipd_core import messages
from semipd_engine.cuda_model.attention import MODULE, device_capability, installed_version
from semipd_engine.cuda_model.attention_choice import AttentionShape, find_lack
from semipd_engine.cuda_model.attention_kernels import HostRows
from semipd_engine.cuda_model.block_tables import BlockTables
from semipd_engine.cuda_model.device import CudaStepDevice
from semipd_engine.cuda_model.flashinfer_attention import FlashInferAttention


class LacksFlashInfer(Exception):
    """Its text says what is missing here."""


def plan_rows(
    shape: AttentionShape, table: Tensor, contexts: Sequence[int], chunks: Sequence[int], block_tokens: int
) -> FlashInferAttention:
    """Rows of one token as in a graph, or `chunks` of so many tokens. table: (rows, blocks) int32.

    Raises: LacksFlashInfer.
    """
    lack = find_lack(installed_version(), device_capability(table.device), shape)
    if lack is not None:
        raise LacksFlashInfer(lack)
    num_rows = len(contexts)
    tables = BlockTables(
        num_slots=num_rows,
        max_context_tokens=table.shape[1] * block_tokens,
        block_tokens=block_tokens,
        device=table.device,
    )
    tables.apply(
        [
            messages.Row(slot=slot, start=0, tokens=[0], blocks_from=0, blocks=blocks, sampling=None)
            for slot, blocks in enumerate(table.tolist())
        ]
    )
    library = importlib.import_module(MODULE)
    device = CudaStepDevice(torch.cuda.current_device())
    attention = FlashInferAttention(library, shape, tables, device, max_rows=num_rows)
    attention.plan(
        HostRows(
            slots=np.arange(num_rows),
            contexts=np.array(contexts, np.int64),
            token_starts=np.cumsum([0, *chunks]),
            graph_rows=None if chunks else num_rows,
        )
    )
    return attention
