"""What the coordinator is told once, at start."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.engine.split_choice import SplitSettings
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Role

PREFILL_POLICIES = ("SPF", "FCFS")


@dataclass(frozen=True, slots=True, kw_only=True)
class CoordinatorConfig:
    """Raises: InvalidSpec if a number is out of range; the path is that of the field here."""

    roles: tuple[Role, ...]
    num_blocks: int  # of the KV arena; block 0 is the null block and never used
    block_tokens: int
    max_context_tokens: int  # prompt and output together
    max_rows: int  # decode rows at most in one step
    prefill_budget_tokens: int  # of one prefill step
    mixed_budget_tokens: int  # of one mixed step, decode rows included
    prefill_policy: str  # one of PREFILL_POLICIES
    spf_aging_tokens_per_s: float
    spf_max_wait_s: float  # a request that has waited this long goes first
    run_ahead: int  # steps in flight per lane at most
    prefix_cache: bool
    num_slots: int  # block-table rows of a lane: requests that hold blocks at most
    step_split: SplitSettings | None = None  # GreenContext: how each step's split is chosen

    def __post_init__(self) -> None:
        if sorted(self.roles) not in (sorted((Role.PREFILL, Role.DECODE)), [Role.MIXED]):
            raise InvalidSpec("roles", self.roles, "(prefill, decode) or (mixed,)")
        if self.prefill_policy not in PREFILL_POLICIES:
            raise InvalidSpec("prefill_policy", self.prefill_policy, " or ".join(PREFILL_POLICIES))
        self._require_at_least(
            1,
            "block_tokens",
            "max_rows",
            "prefill_budget_tokens",
            "mixed_budget_tokens",
            "run_ahead",
            "num_slots",
        )
        self._require_at_least(2, "num_blocks", "max_context_tokens")
        self._require_at_least(0, "spf_aging_tokens_per_s", "spf_max_wait_s")

    def _require_at_least(self, least: int, *names: str) -> None:
        for name in names:
            if not getattr(self, name) >= least:
                raise InvalidSpec(name, getattr(self, name), f"at least {least}")

    @property
    def usable_blocks(self) -> int:
        return self.num_blocks - 1
