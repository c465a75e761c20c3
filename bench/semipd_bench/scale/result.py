"""What a run over the fleet found, and which targets it keeps. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from semipd_bench.scale.api_requests import LEASE, OPERATOR, by_writer
from semipd_bench.verdict import Condition

RESTART_MAX_S = 60.0
RSS_MAX_MB = 200.0
OPERATOR_WRITES_MAX_PER_S = 1.0
ALL_WRITES_MAX_PER_S = 10.0
ROUND_MAX_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time: what the operator and the API server used, and what was written (by resource)."""

    seconds: float
    operator_cpu_s: float
    api_server_cpu_s: float
    rss_mb: float  # of the operator, at its end
    peak_rss_mb: float  # of the operator, since its start
    writes: Mapping[str, int]
    operator_writes: int  # by the operator's own count: without its lease and its events
    rounds_s: tuple[float, ...]  # how long each round of the cluster loop took

    @property
    def cpu_percent(self) -> float:
        return 100 * self.operator_cpu_s / self.seconds

    def writes_per_s(self, *writers: str) -> float:
        """Of all writers if none is named."""
        found = by_writer(self.writes)
        return (
            sum(count for writer, count in found.items() if not writers or writer in writers) / self.seconds
        )

    @property
    def longest_round_s(self) -> float:
        return max(self.rounds_s, default=0.0)

    @property
    def median_round_s(self) -> float:
        return median(self.rounds_s) if self.rounds_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FromNothing:
    """Seconds since the operator started, over services without anything else."""

    partitions_s: float  # every pod has its partition
    observed_s: float  # every service has a status of its generation
    ready_s: float  # every service is ready: its agents have reported, and it has seen that
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """Seconds since the start of an operator that takes over from one that was killed, under another name."""

    leads_s: float  # it has waited for the lease to end
    converged_s: float  # every service has been reconciled, and looked at by the cluster loop
    span: Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Reaction:
    """Seconds from a service's windows turned bad until partitions of its pods ask for another split. None: not in time."""

    first_s: float | None
    all_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Half of the agents behave as `conduct` says."""

    conduct: str
    span: Span
    engines_reporting: tuple[int, ...]  # after each round
    said: Mapping[str, int]  # reason of MetricsAvailable: services


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleResult:
    services: int
    agents: int
    round_s: float
    versions: Mapping[str, str]
    report_bytes: int
    services_created_s: float
    from_nothing: FromNothing
    steady: Span
    restart: Restart
    reactions: tuple[Reaction, ...]
    outages: tuple[Outage, ...]


def judge_scale(result: ScaleResult) -> list[Condition]:
    steady, restart = result.steady, result.restart
    peak_mb = max(span.peak_rss_mb for span in _spans(result))
    own = steady.writes_per_s(OPERATOR, LEASE)
    conditions = [
        Condition(
            name=f"a restart over existing objects converges within {RESTART_MAX_S:g} s",
            holds=restart.converged_s <= RESTART_MAX_S,
            found=f"{restart.converged_s:.1f} s, {restart.leads_s:.1f} s of it until the lease had ended",
        ),
        Condition(
            name=f"the operator stays under {RSS_MAX_MB:g} MB",
            holds=peak_mb < RSS_MAX_MB,
            found=f"peak {peak_mb:.0f} MB, {steady.rss_mb:.0f} MB when steady",
        ),
        Condition(
            name=f"the operator writes less than {OPERATOR_WRITES_MAX_PER_S:g}/s when nothing changes",
            holds=own < OPERATOR_WRITES_MAX_PER_S,
            found=f"{own:.2f}/s, its lease among them",
        ),
        Condition(
            name=f"all write less than {ALL_WRITES_MAX_PER_S:g}/s when nothing changes",
            holds=steady.writes_per_s() < ALL_WRITES_MAX_PER_S,
            found=f"{steady.writes_per_s():.2f}/s",
        ),
        _rounds("steady", steady.rounds_s),
    ]
    conditions += [
        _rounds(f"half of the agents: {outage.conduct}", outage.span.rounds_s) for outage in result.outages
    ]
    missed = [each.first_s for each in result.reactions].count(None)
    conditions.append(
        Condition(
            name="every service with a bad window gets another split",
            holds=missed == 0,
            found=f"{len(result.reactions) - missed} of {len(result.reactions)}",
        )
    )
    return conditions


def _rounds(when: str, rounds_s: Sequence[float]) -> Condition:
    longest_s = max(rounds_s, default=float("inf"))
    return Condition(
        name=f"rounds take at most {ROUND_MAX_S:g} s ({when})",
        holds=longest_s <= ROUND_MAX_S,
        found=f"longest {longest_s:.1f} s of {len(rounds_s)}",
    )


def _spans(result: ScaleResult) -> list[Span]:
    return [
        result.from_nothing.span,
        result.steady,
        result.restart.span,
        *(outage.span for outage in result.outages),
    ]
