"""What a step launches between its staged inputs and its tokens: the same for a replayed graph and kernel by kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from semipd_engine.cuda_model.attention_kernels import HostRows
from semipd_engine.cuda_model.batch import StepBatch
from semipd_engine.cuda_model.block_tables import BlockTables, Deltas
from semipd_engine.cuda_model.decoder import Decoder, Forward
from semipd_engine.cuda_model.device import StepDevice
from semipd_engine.cuda_model.device_batch import ChunkSpan, DeviceBatch, latent_contexts
from semipd_engine.cuda_model.sampling import choose_tokens
from semipd_engine.cuda_model.staging import Capacity, StagedInputs

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepShape:
    """All that the host must know of a step to launch it."""

    tokens: int
    singles: int  # rows of one token
    samples: int
    chunks: tuple[ChunkSpan, ...] = ()
    has_cuts: bool = True  # top_k or top_p in some row
    graph_rows: int | None = None  # of the graph that holds the step

    @property
    def samples_all(self) -> bool:
        return self.samples == self.tokens


def decode_shape(rows: int) -> StepShape:
    """Of the graph of `rows` rows."""
    return StepShape(tokens=rows, singles=rows, samples=rows, graph_rows=rows)


def batch_shape(batch: StepBatch) -> StepShape:
    has_cuts = bool((batch.top_ks > 0).any() or (batch.top_ps < 1.0).any())
    return StepShape(
        tokens=len(batch.token_ids),
        singles=batch.num_singles,
        samples=len(batch.sampled),
        chunks=_chunk_spans(batch),
        has_cuts=has_cuts,
    )


def _chunk_spans(batch: StepBatch) -> tuple[ChunkSpan, ...]:
    ends = (batch.num_singles + batch.token_starts).tolist()
    contexts = batch.contexts[batch.num_singles :].tolist()
    return tuple(
        ChunkSpan(first=first, last=last, context_tokens=context)
        for first, last, context in zip(ends, ends[1:], contexts, strict=False)
    )


class StepProgram:
    """One set of inputs. last_tokens: (slots + 1) int64, what was sampled last for each slot."""

    def __init__(
        self,
        decoder: Decoder,
        tables: BlockTables,
        last_tokens: Tensor,
        device: StepDevice,
        capacity: Capacity,
        num_buffers: int,
    ) -> None:
        self.decoder = decoder
        self._tables = tables
        self._last_tokens = last_tokens
        self._inputs = StagedInputs(capacity, device, num_buffers)

    def stage_nothing(self, shape: StepShape) -> None:
        """For a graph's capture, which runs its step."""
        self._inputs.clear()
        self.decoder.attention.plan(HostRows.padding(shape.graph_rows))

    def stage(self, batch: StepBatch, deltas: Deltas, shape: StepShape) -> None:
        """Inputs and block tables to the device, and the plan of attention. A shape of more rows than the batch has pads it.

        Raises: ValueError for a step beyond the capacity.
        """
        capacity = self._inputs.capacity
        staged = min(len(deltas), capacity.deltas)
        first = Deltas(places=deltas.places[:staged], blocks=deltas.blocks[:staged])
        self._inputs.upload(_arrays(batch, first), _padding(shape, self._tables.padding_slot))
        if staged:
            self._tables.write(self._inputs["delta_places"][:staged], self._inputs["delta_blocks"][:staged])
        if staged < len(deltas):  # many long prompts at once: rare enough for copies that may wait
            places, blocks = (
                torch.from_numpy(deltas.places[staged:]),
                torch.from_numpy(deltas.blocks[staged:]),
            )
            device = self._last_tokens.device
            self._tables.write(places.to(device), blocks.to(device, torch.int32))
        self.decoder.attention.plan(
            HostRows(
                slots=batch.slots,
                contexts=batch.contexts,
                token_starts=batch.token_starts,
                graph_rows=shape.graph_rows,
            )
        )

    def begin(self, shape: StepShape) -> Forward:
        inputs, singles, num_chunks = self._inputs, shape.singles, len(shape.chunks)
        chunk_tables = self._tables.gather(inputs["slots"][singles : singles + num_chunks])
        chunk_contexts = inputs["chunk_contexts"][:num_chunks]
        batch = DeviceBatch(
            token_ids=self._token_ids(shape),
            positions=inputs["positions"][: shape.tokens],
            kv_slots=inputs["kv_slots"][: shape.tokens],
            tables=self._tables.gather(inputs["slots"][:singles]),
            contexts=inputs["contexts"][:singles],
            chunk_tables=chunk_tables,
            chunk_contexts=chunk_contexts,
            token_starts=inputs["token_starts"][: num_chunks + 1],
            latent_contexts=latent_contexts(
                shape.chunks, chunk_tables, chunk_contexts, self._tables.block_tokens
            )
            if shape.chunks and self.decoder.has_latents
            else None,
            max_chunk_tokens=max((span.last - span.first for span in shape.chunks), default=1),
            sampled=None if shape.samples_all else inputs["sampled"][: shape.samples],
        )
        return self.decoder.start(batch)

    def choose(self, logits: Tensor, shape: StepShape) -> Tensor:
        """(samples) int64, which the slots' next steps find in `last_tokens`. logits: (samples, vocab) fp32.

        The first rank chooses, and all have its tokens: ranks that computed them apart might one day differ by a bit.
        """
        ranks = self.decoder.ranks
        if ranks.number == 0:
            tokens = choose_tokens(logits, self._inputs, has_cuts=shape.has_cuts)
        else:
            tokens = torch.empty(shape.samples, dtype=torch.int64, device=logits.device)
        tokens = ranks.broadcast(tokens)
        self._last_tokens.index_copy_(0, self._inputs["sampled_slots"][: shape.samples], tokens)
        return tokens

    def _token_ids(self, shape: StepShape) -> Tensor:
        """(tokens): rows of one token may take the one that their slot's last step has sampled."""
        ids, singles = self._inputs["token_ids"][: shape.tokens], shape.singles
        last = self._last_tokens.index_select(0, self._inputs["slots"][:singles])
        ahead = torch.where(ids[:singles] < 0, last, ids[:singles])
        return ahead if singles == shape.tokens else torch.cat([ahead, ids[singles:]])


def _arrays(batch: StepBatch, deltas: Deltas) -> Arrays:
    return {
        "token_ids": batch.token_ids,
        "positions": batch.positions,
        "kv_slots": batch.kv_slots,
        "slots": batch.slots,
        "contexts": batch.contexts[: batch.num_singles],
        "chunk_contexts": batch.contexts[batch.num_singles :],
        "token_starts": batch.token_starts,
        "sampled": batch.sampled,
        "sampled_slots": batch.sampled_slots,
        "temperatures": batch.temperatures,
        "top_ps": batch.top_ps,
        "top_ks": batch.top_ks,
        "seeds": batch.seeds,
        "sample_positions": batch.sample_positions,
        "delta_places": deltas.places,
        "delta_blocks": deltas.blocks.astype(np.int32),
    }


def _padding(shape: StepShape, padding_slot: int) -> Mapping[str, tuple[int, float]]:
    """Rows that only fill a graph: no context, greedy, in a slot of their own, whose blocks are the null block."""
    rows = shape.singles + len(shape.chunks)
    zeros = ("positions", "kv_slots", "token_ids", "contexts")
    settings = ("temperatures", "top_ks", "seeds", "sample_positions")
    return {
        **{name: (shape.tokens if name != "contexts" else shape.singles, 0) for name in zeros},
        **dict.fromkeys(settings, (shape.samples, 0)),
        "slots": (rows, padding_slot),
        "sampled_slots": (shape.samples, padding_slot),
        "top_ps": (shape.samples, 1.0),
    }
