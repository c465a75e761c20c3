"""Runs step plans on a GPU, several in flight: by a graph where all rows decode, else kernel by kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import cycle

import torch
from torch import Tensor

from semipd_core import messages
from semipd_core.engine_config import EngineConfig
from semipd_core.partition import Role
from semipd_engine.cuda_model.arenas import DeviceArenas, kv_tensor, weight_tensors
from semipd_engine.cuda_model.attention import AttentionBuilder, build_attention
from semipd_engine.cuda_model.batch import StepBatch, build_batch
from semipd_engine.cuda_model.block_tables import BlockTables
from semipd_engine.cuda_model.buckets import choose_launch
from semipd_engine.cuda_model.decoder import Decoder, Forward
from semipd_engine.cuda_model.device import Arrival, StepDevice
from semipd_engine.cuda_model.limits import SMALLEST_STEP, LaneLimits, largest_steps, smaller_steps
from semipd_engine.cuda_model.product_choice import WARM_UP_TOKENS
from semipd_engine.cuda_model.program import StepProgram, batch_shape, decode_shape
from semipd_engine.cuda_model.sampling import logprobs
from semipd_engine.cuda_model.staging import Capacity
from semipd_engine.cuda_model.step import LOGPROBS, TOKENS, RunningStep
from semipd_engine.model.ranks import Ranks
from semipd_shell import log


class CudaExecutor:
    """Holds no request: block tables, and the token last sampled for each slot, both on the device.

    At most `depth` steps are in flight: the caller has the outcome of a step before it starts the `depth`-th one after it.
    """

    @torch.inference_mode()
    def __init__(
        self, decoder: Decoder, tables: BlockTables, device: StepDevice, limits: LaneLimits, depth: int
    ) -> None:
        self.depth = depth
        self.ranks = decoder.ranks
        self._log = log.logger(__name__)
        self._decoder = decoder
        self._tables = tables
        self._device = device
        self._limits = limits
        self._captured: tuple[int, ...] = ()
        on = device.torch_device
        graph_rows = max(limits.graphs.rows, default=0)
        last_tokens = torch.zeros(tables.padding_slot + 1, dtype=torch.int64, device=on)
        self._eager, self._replayed = (
            StepProgram(
                decoder,
                tables,
                last_tokens,
                device,
                Capacity(tokens=tokens, rows=rows, deltas=rows + 2 * tables.width),
                depth,
            )
            for tokens, rows in (
                (limits.max_tokens, limits.max_rows),
                (max(graph_rows, 1), max(graph_rows, 1)),
            )
        )
        logits_rows = graph_rows if self.ranks.number == 0 else 0
        self._graph_logits = torch.empty(logits_rows, decoder.config.vocab_size, device=on)
        self._graph_tokens = torch.empty(graph_rows, dtype=torch.int64, device=on)
        shape = (2, max(limits.max_rows, graph_rows))
        num_bytes = shape[0] * shape[1] * torch.int64.itemsize
        self._results = cycle(
            [
                (
                    torch.zeros(shape, dtype=torch.int64, device=on),
                    device.host_buffer(num_bytes).view(torch.int64).view(shape),
                )
                for _ in range(depth)
            ]
        )
        device.synchronize()  # what was filled above was not filled on the steps' stream

    @classmethod
    def build(
        cls,
        config: EngineConfig,
        arenas: DeviceArenas,
        device: StepDevice,
        role: Role,
        ranks: Ranks | None = None,
        attention_of: AttentionBuilder = build_attention,
    ) -> CudaExecutor:
        """`ranks`: those among which the arenas are one rank's; None: it is the only one.

        Raises: InvalidSpec for attention kernels that are asked for and cannot serve.
        """
        manifest = arenas.manifest
        tables = BlockTables(
            num_slots=config.num_slots,
            max_context_tokens=manifest.max_context_tokens,
            block_tokens=manifest.block_tokens,
            device=device.torch_device,
        )
        attention = attention_of(config, manifest.model, tables, device)
        decoder = Decoder(manifest.model, weight_tensors(arenas), kv_tensor(arenas), attention, ranks)
        limits = LaneLimits.of_role(config, role, asks_host=decoder.asks_host)
        log.logger(__name__).info("graphs", rows=limits.graphs.rows, reason=limits.graphs.reason)
        return cls(decoder, tables, device, limits, config.run_ahead)

    def launch(self, plan: messages.StepPlan) -> RunningStep:
        """The whole step, without waiting for it."""
        step = self.start(plan)
        step.advance(step.layers_left)
        return step

    @torch.inference_mode()
    def start(self, plan: messages.StepPlan) -> RunningStep:
        """The step's inputs; its layers by `RunningStep.advance`. One step is launched whole before the next one starts."""
        deltas = self._tables.apply(plan.rows)
        batch = build_batch(plan.rows, self._tables)
        choice = choose_launch(
            num_rows=len(plan.rows),
            num_chunks=batch.num_chunks,
            num_samples=len(batch.sampled),
            buckets=self._captured,
        )
        self._log.debug("launch", epoch=plan.epoch, bucket=choice.bucket, reason=choice.reason)
        program = self._eager if choice.bucket is None else self._replayed
        shape = batch_shape(batch) if choice.bucket is None else decode_shape(choice.bucket)
        on_device, on_host = next(self._results)
        with self._device.stream():
            mark = self._device.mark()
            program.stage(batch, deltas, shape)
            forward = program.begin(shape) if choice.bucket is None else None
            if choice.bucket is not None:
                self._device.graphs.replay(choice.bucket)

        def end(forward: Forward | None) -> Arrival:
            samples = len(batch.sampled)
            if forward is None:
                self._keep(batch, self._graph_logits[:samples], self._graph_tokens[:samples], on_device)
            elif samples:
                logits = forward.logits()
                self._keep(batch, logits, program.choose(logits, shape), on_device)
            return self._device.download(on_device, on_host, mark)

        return RunningStep(
            self._device,
            forward,
            end,
            on_host,
            num_rows=len(plan.rows),
            sampled_rows=batch.sampled_rows,
            wants_logprobs=batch.wants_logprobs,
        )

    @torch.inference_mode()
    def warm_up(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """The graphs, then the largest step of each kind beside them, so that kernels are compiled and memory is taken.

        A capture gives back what steps before it have left to torch's allocator: only after it do both prove to fit.
        Writes only to the null block. should_stop: asked between two of them; all ranks must hear the same.
        Raises: torch.OutOfMemoryError.
        """
        self._captured = ()  # a step of as many rows as a graph has is launched kernel by kernel here
        products = WARM_UP_TOKENS if self._decoder.has_fp8 else ()
        idle = [*self._largest(), *smaller_steps(self._limits, self._context_tokens, products)]
        captures = [partial(self._capture, rows) for rows in reversed(self._limits.graphs.rows)]
        for warm in (*captures, *(partial(self._run_idle, rows) for rows in idle)):
            if should_stop():
                return
            warm()
        self._captured = self._limits.graphs.rows
        self._device.synchronize()

    @torch.inference_mode()
    def warm_stream(self) -> None:
        """After `warm_up`, for another stream of the device: what torch's allocator keeps for one is of no use to others.

        Writes only to the null block. Raises: torch.OutOfMemoryError.
        """
        for rows in (*self._largest(), SMALLEST_STEP):
            self._run_idle(rows)

    @property
    def _context_tokens(self) -> int:
        return self._tables.width * self._tables.block_tokens

    def _largest(self) -> list[list[messages.Row]]:
        return largest_steps(self._limits, self._context_tokens, has_latents=self._decoder.has_latents)

    def _run_idle(self, rows: list[messages.Row]) -> None:
        self.launch(messages.StepPlan(epoch=0, rows=rows, request_ids=[""] * len(rows))).outcome()

    def drain(self) -> None:
        """Until the device has nothing of this process to do."""
        self._device.synchronize()

    def _capture(self, rows: int) -> None:
        with self._device.stream():
            self._replayed.stage_nothing(decode_shape(rows))
        self._device.synchronize()  # graphs of other streams than this one's read what was staged, too
        self._device.graphs.capture(rows, partial(self._decode, rows))

    def _decode(self, rows: int) -> None:
        """What the graph of `rows` rows holds."""
        shape = decode_shape(rows)
        forward = self._replayed.begin(shape)
        forward.advance(forward.layers_left)
        logits = forward.logits(out=self._graph_logits[:rows])
        self._graph_tokens[:rows].copy_(self._replayed.choose(logits, shape))

    def _keep(self, batch: StepBatch, logits: Tensor, tokens: Tensor, result: Tensor) -> None:
        """What is downloaded, out of the way of the next step."""
        result[TOKENS, : len(tokens)].copy_(tokens)
        if self.ranks.number == 0 and any(batch.wants_logprobs):
            scores = result[LOGPROBS].view(torch.float64)
            scores[: len(tokens)].copy_(logprobs(logits, tokens))
