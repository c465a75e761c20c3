"""Runs step plans: block deltas in, a batch through the decoder, sampled tokens out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import msgspec

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_engine.memory.client import Attachment
from semipd_engine.model import sampling
from semipd_engine.model.arenas import kv_tensor, weight_tensors
from semipd_engine.model.batch import build_batch
from semipd_engine.model.block_tables import BlockTables
from semipd_engine.model.decoder import Decoder, Turns
from semipd_engine.model.ranks import LoneRank, Ranks

WARM_UP_TOKENS = 16


class Executor:
    """Holds no request: block tables, and the token last sampled for each slot. Only the first rank samples."""

    def __init__(self, decoder: Decoder, tables: BlockTables, num_blocks: int, ranks: Ranks) -> None:
        self._decoder = decoder
        self._tables = tables
        self._num_blocks = num_blocks
        self._ranks = ranks

    @classmethod
    def build(cls, config: EngineConfig, attachment: Attachment, ranks: Ranks | None = None) -> Executor:
        """`ranks`: those among which the attached arenas are one rank's; None: it is the only one."""
        ranks = ranks or LoneRank()
        manifest = attachment.manifest
        decoder = Decoder(manifest.model, weight_tensors(attachment), kv_tensor(attachment), ranks)
        tables = BlockTables(
            num_slots=config.num_slots,
            max_context_tokens=manifest.max_context_tokens,
            block_tokens=manifest.block_tokens,
        )
        return cls(decoder, tables, manifest.num_blocks, ranks)

    def execute(self, plan: messages.StepPlan, turns: Turns) -> tuple[list[int | None], list[float | None]]:
        """Token and log-probability per row; None where a row wants none, and everywhere but with the first rank."""
        for row in plan.rows:
            self._tables.apply(row)
        batch = build_batch(
            plan.rows,
            self._tables,
            self._num_blocks,
            self._decoder.dtype,
            kv_planes=self._decoder.kv_planes,
        )
        logits = self._decoder.forward(batch, turns)
        tokens: list[int | None] = [None] * len(plan.rows)
        logprobs: list[float | None] = [None] * len(plan.rows)
        if self._ranks.number > 0:
            return tokens, logprobs
        rows = [plan.rows[index] for index in batch.sampled_rows]
        samplings = [row.sampling for row in rows if row.sampling is not None]
        positions = [row.start + row.num_tokens for row in rows]
        choices = sampling.sample(logits, samplings, positions)
        for index, row, choice in zip(batch.sampled_rows, rows, choices, strict=True):
            self._tables.remember(row.slot, choice.token)
            tokens[index], logprobs[index] = choice.token, choice.logprob
        return tokens, logprobs

    def spell_out(self, plan: messages.StepPlan) -> messages.StepPlan:
        """The plan with the last sampled token in its run-ahead rows: other ranks have not seen it."""
        rows = [msgspec.structs.replace(row, tokens=self._tables.tokens(row)) for row in plan.rows]
        return msgspec.structs.replace(plan, rows=rows)

    def warm_up(self) -> None:
        """One small batch of both kinds of rows, so that weights are mapped and kernels chosen. Writes only to the null block."""
        prompt = [0] * min(WARM_UP_TOKENS, self._tables.max_context_tokens)
        chunk = messages.Row(slot=0, start=0, tokens=prompt, blocks_from=0, blocks=[0], sampling=None)
        single = messages.Row(
            slot=0, start=0, tokens=[0], blocks_from=0, blocks=[0], sampling=messages.Sampling()
        )
        plan = messages.StepPlan(epoch=0, rows=[chunk, single], request_ids=["", ""])
        self.execute(plan, _NoTurns())


class _NoTurns:
    def turn(self) -> AbstractContextManager[None]:
        return nullcontext()
