"""A device as a profile has measured it, for `lanes_model.simulate`: core's own step model and share curves. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_bench.lanes_model import lane_speeds
from semipd_core.agent_config import AgentConfig
from semipd_core.errors import InvalidSpec
from semipd_core.latency.nexus import StepModel
from semipd_core.partition import Partition, Role
from semipd_core.profile.format import Profile
from semipd_core.profile.start import start_from


@dataclass(frozen=True, slots=True, kw_only=True)
class ProfiledMachine:
    """As `lanes_model.Machine`; costs depend on the context too."""

    steps: StepModel
    engines: int
    chunk_tokens: int
    max_rows: int
    aging_tokens_per_s: float
    overhead_ms: float = 0.0  # a profile measures lanes: front end and network are not in it

    def prefill_ms(self, tokens: int, context_tokens: float) -> float:
        return self.steps.prefill_ms(tokens=tokens, context_tokens=context_tokens)

    def decode_ms(self, rows: int, context_tokens: float) -> float:
        return self.steps.decode_ms(rows=rows, context_tokens=context_tokens)

    def speeds(self, partition: Partition, *, prefill_busy: bool, decode_busy: bool) -> tuple[float, float]:
        """Of the prefill and the decode lane, as a part of the whole device; 0 for an idle lane."""
        if self.steps.takes_turns:
            return lane_speeds(partition, prefill_busy=prefill_busy, decode_busy=decode_busy)
        p, d = partition.prefill_percent, partition.decode_percent
        prefill, decode = self.steps.curve_of(Role.PREFILL), self.steps.curve_of(Role.DECODE)
        if prefill_busy and decode_busy:
            return prefill.contended_speed(p, d), decode.contended_speed(d, p)
        return prefill.lone_speed(p) * prefill_busy, decode.lone_speed(d) * decode_busy


def machine_of(profile: Profile, config: AgentConfig, given: str) -> ProfiledMachine:
    """Raises: InvalidSpec for a profile with too few points."""
    steps = start_from(profile).steps
    if not steps.is_trusted:
        raise InvalidSpec("--profile", given, f"a profile with enough points for a fit ({steps.missing()})")
    return ProfiledMachine(
        steps=steps,
        engines=config.engines,
        chunk_tokens=config.prefill_budget_tokens,
        max_rows=config.max_rows,
        aging_tokens_per_s=config.spf_aging_tokens_per_s,
    )
