"""From a scheduler's decision to a step on a lane: admission, block growth, preemption, and the rows as the lane needs them."""

from __future__ import annotations

from semipd_core.engine.config import CoordinatorConfig
from semipd_core.engine.decode_scheduler import DecodeRoom, schedule_decode
from semipd_core.engine.lanes import Lane, PlannedRow, RoleLanes, Step
from semipd_core.engine.mixed_scheduler import schedule_mixed
from semipd_core.engine.prefill_scheduler import Chunk, PrefillRoom, schedule_prefill
from semipd_core.engine.request import Request, RequestPhase
from semipd_core.engine.sequences import Sequences
from semipd_core.messages import Row, StepPlan
from semipd_core.partition import Role


class Planner:
    """Plans a role's next step when its active lane can take one."""

    def __init__(self, config: CoordinatorConfig, sequences: Sequences) -> None:
        self._config = config
        self._sequences = sequences

    def plan(self, group: RoleLanes, now_ns: int) -> StepPlan | None:
        """The next step, already recorded as in flight, or None if there is nothing to do or no room to do it in."""
        lane = group.active
        if lane is None or group.swap_to is not None or len(lane.in_flight) >= self._config.run_ahead:
            return None
        suspect = next(iter(self._sequences.suspects[group.role].values()), None)
        if suspect is not None:
            return None if lane.in_flight else self._record(lane, [self._alone(suspect)], now_ns)
        chunks = self._choose(group.role, now_ns)
        return self._record(lane, chunks, now_ns) if chunks else None

    def _alone(self, suspect: Request) -> Chunk:
        """The step of a suspect repeats the one that was lost: slot and blocks are there already."""
        if suspect.phase is RequestPhase.DECODING:
            return Chunk(request=suspect, num_tokens=1)
        mixed = Role.MIXED in self._config.roles
        budget = self._config.mixed_budget_tokens if mixed else self._config.prefill_budget_tokens
        return Chunk(request=suspect, num_tokens=min(suspect.remaining_tokens, budget))

    def _choose(self, role: Role, now_ns: int) -> list[Chunk]:
        if role is Role.DECODE:
            return self._choose_decode()
        if role is Role.PREFILL:
            return self._choose_prefill(now_ns)
        return self._choose_mixed(now_ns)

    def _choose_decode(self) -> list[Chunk]:
        while True:
            decision = schedule_decode(list(self._sequences.decode.values()), self._decode_room())
            if decision.victim is None:
                return _as_chunks(decision.rows)
            self._sequences.preempt(decision.victim)

    def _choose_prefill(self, now_ns: int) -> list[Chunk]:
        sequences = self._sequences
        room = self._prefill_room(self._config.prefill_budget_tokens)
        prompts = sequences.prefill.values()
        return schedule_prefill(prompts, room, sequences.need_of, self._config, now_ns).chunks

    def _choose_mixed(self, now_ns: int) -> list[Chunk]:
        sequences = self._sequences
        while True:
            decision = schedule_mixed(
                list(sequences.decode.values()),
                sequences.prefill.values(),
                self._decode_room(),
                self._prefill_room(self._config.mixed_budget_tokens),
                sequences.need_of,
                self._config,
                now_ns,
            )
            if decision.prefill is not None:
                return _as_chunks(decision.decode.rows) + decision.prefill.chunks
            assert decision.decode.victim is not None
            sequences.preempt(decision.decode.victim)

    def _decode_room(self) -> DecodeRoom:
        pool = self._sequences.pool
        return DecodeRoom(
            max_rows=self._config.max_rows,
            available_blocks=pool.num_available,
            fenced_blocks=pool.num_fenced,
            block_tokens=self._config.block_tokens,
        )

    def _prefill_room(self, budget_tokens: int) -> PrefillRoom:
        return PrefillRoom(
            budget_tokens=budget_tokens,
            blocks=self._sequences.available_blocks_for_prompts,
            slots=self._sequences.num_free_slots,
        )

    def _record(self, lane: Lane, chunks: list[Chunk], now_ns: int) -> StepPlan:
        lane.epoch += 1
        rows: list[Row] = []
        planned: list[PlannedRow] = []
        num_tokens = context_tokens = 0
        for chunk in chunks:
            row, planned_row = self._plan_row(lane, chunk)
            rows.append(row)
            planned.append(planned_row)
            num_tokens += planned_row.end - row.start
            context_tokens += planned_row.end
        step = Step(
            epoch=lane.epoch,
            rows=planned,
            num_tokens=num_tokens,
            context_tokens=context_tokens,
            planned_ns=now_ns,
        )
        lane.in_flight.append(step)
        request_ids = [row.request.request_id for row in planned]
        return StepPlan(epoch=lane.epoch, rows=rows, request_ids=request_ids)

    def _plan_row(self, lane: Lane, chunk: Chunk) -> tuple[Row, PlannedRow]:
        """One row. Slicing yields no tokens where the token at `start` is still being sampled: run-ahead."""
        request = chunk.request
        if request.phase is RequestPhase.WAITING:
            self._sequences.admit(request)
        self._sequences.grow(request)
        start = request.planned
        end = start + chunk.num_tokens
        tokens = request.tokens[start:end]
        if tokens:
            # Admissions of this step may have evicted cached blocks that the decision counted on.
            end = start + len(tokens)
        samples = end >= len(request.tokens)
        known_residency, known_blocks = lane.known.get(request.slot, (0, 0))
        if known_residency != request.residency:
            known_blocks = 0
        lane.known[request.slot] = (request.residency, len(request.blocks))
        request.planned = end
        request.pending += samples
        request.lane, request.last_epoch = lane.serial, lane.epoch
        if samples and request.phase is RequestPhase.PREFILLING and lane.role is Role.MIXED:
            # Its first token stays on this lane, so decoding may run ahead of the result.
            request.phase = RequestPhase.DECODING
            self._sequences.requeue(request)
        row = Row(
            slot=request.slot,
            start=start,
            tokens=tokens,
            blocks_from=known_blocks,
            blocks=request.blocks[known_blocks:],
            sampling=request.sampling if samples else None,
        )
        return row, PlannedRow(request, request.residency, end, samples)


def _as_chunks(rows: list[Request]) -> list[Chunk]:
    return [Chunk(request=request, num_tokens=1) for request in rows]
