"""What the coordinator tells of itself: step samples as steps complete, and the report that is asked for."""

from __future__ import annotations

from collections.abc import Iterable

from semipd_core.engine.lanes import Lane, LaneTable, RoleLanes, SplitCount, Step
from semipd_core.engine.request import Request, RequestPhase
from semipd_core.engine.sequences import Sequences
from semipd_core.messages import StepResult
from semipd_core.partition import Role
from semipd_core.telemetry import CoordinatorReport, LaneReport, SplitUse, StepSample

NS_PER_US = 1_000
NS_PER_MS = 1_000_000


def record_step(table: LaneTable, lane: Lane, step: Step, result: StepResult) -> StepSample:
    """Count a completed step, already off `lane.in_flight`, and keep its sample."""
    group = table.roles[lane.role]
    wall_ns = max(result.finished_ns - result.started_ns, 0)
    group.steps += 1
    group.tokens += step.num_tokens
    group.busy_ns += wall_ns
    group.compute_ns += result.compute_ns
    group.intervals.append((result.started_ns, result.finished_ns))
    others = [other for role, other in table.roles.items() if role is not lane.role]
    contended_ns = sum(overlap_ns(result.started_ns, result.finished_ns, other) for other in others)
    caps = step.split
    if caps is not None:
        count = group.splits.setdefault(caps, SplitCount())
        count.steps += 1
        count.busy_ns += wall_ns
    sample = StepSample(
        role=lane.role,
        at_ns=result.finished_ns,
        rows=len(step.rows),
        tokens=step.num_tokens,
        context_tokens=step.context_tokens,
        wall_us=wall_ns // NS_PER_US,
        compute_us=result.compute_ns // NS_PER_US,
        prefill_percent=caps.prefill_percent if caps else _percent(table, Role.PREFILL),
        decode_percent=caps.decode_percent if caps else _percent(table, Role.DECODE),
        contended_permille=min(1000 * contended_ns // wall_ns, 1000) if wall_ns else 0,
    )
    group.samples.append(sample)
    return sample


def overlap_ns(started_ns: int, finished_ns: int, other: RoleLanes) -> int:
    """How long steps of `other` ran inside [started, finished]; one in flight began once its forerunner had ended."""
    total = 0
    for other_started, other_finished in reversed(other.intervals):
        if other_finished <= started_ns:
            break
        total += max(min(finished_ns, other_finished) - max(started_ns, other_started), 0)
    if other.active is not None and other.active.in_flight:
        last_finished = other.intervals[-1][1] if other.intervals else 0
        began_ns = max(other.active.in_flight[0].planned_ns, last_finished)
        total += max(finished_ns - max(started_ns, began_ns), 0)
    return total


def build_report(sequences: Sequences, table: LaneTable, now_ns: int) -> CoordinatorReport:
    live = sequences.live.values()
    waiting = [request for request in live if request.phase is RequestPhase.WAITING]
    prefilling = [request for request in live if request.phase is RequestPhase.PREFILLING]
    pool = sequences.pool
    return CoordinatorReport(
        waiting=len(waiting),
        prefilling=len(prefilling),
        decoding=len(live) - len(waiting) - len(prefilling),
        kv_blocks_total=pool.num_total,
        kv_blocks_used=pool.num_used,
        kv_blocks_cached=pool.num_cached,
        block_tokens=sequences.config.block_tokens,
        waiting_tokens=sum(len(request.tokens) - request.computed for request in (*waiting, *prefilling)),
        oldest_wait_ms=_oldest_wait_ms(waiting, now_ns),
        preemptions=sequences.preemptions,
        prefix_hit_tokens=sequences.prefix_hit_tokens,
        lane_restarts=table.restarts,
        lanes=[report for group in table.roles.values() for report in _lane_reports(group)],
        samples=[sample for group in table.roles.values() for sample in group.samples],
        splits=[use for group in table.roles.values() for use in _split_uses(group)],
    )


def _oldest_wait_ms(waiting: Iterable[Request], now_ns: int) -> int:
    """Of requests without a token: one that was preempted did not arrive late."""
    oldest_ns = min((r.arrived_ns for r in waiting if r.num_generated == 0), default=now_ns)
    return max(now_ns - oldest_ns, 0) // NS_PER_MS


def _lane_reports(group: RoleLanes) -> list[LaneReport]:
    """Lost lanes are left out: they take no more work."""
    lanes = [group.active] if group.active is not None else []
    return [
        LaneReport(
            lane_id=lane.lane_id,
            role=lane.role,
            pid=lane.hello.pid,
            active=lane is group.active,
            requested_percent=lane.requested_percent,
            granted_percent=lane.granted_percent,
            batch=len(lane.in_flight[0].rows) if lane.in_flight else 0,
            steps=group.steps,
            tokens=group.tokens,
            busy_us=group.busy_ns // NS_PER_US,
            compute_us=group.compute_ns // NS_PER_US,
            private_bytes=lane.hello.private_bytes,
        )
        for lane in (*lanes, *group.standby.values())
    ]


def _split_uses(group: RoleLanes) -> list[SplitUse]:
    return [
        SplitUse(
            role=group.role,
            prefill_percent=split.prefill_percent,
            decode_percent=split.decode_percent,
            steps=count.steps,
            busy_us=count.busy_ns // NS_PER_US,
        )
        for split, count in group.splits.items()
    ]


def _percent(table: LaneTable, role: Role) -> int:
    """The cap in force; the mixed lane stands for both roles."""
    group = table.roles.get(role) or table.roles[Role.MIXED]
    return group.granted_percent
