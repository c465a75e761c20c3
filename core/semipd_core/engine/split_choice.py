"""The split of each step: what the coordinator knows of it between two choices. The choice itself is `step_split`.

Off without settings (MPS, no isolation, one lane): then no split is ever said. The wish sets a target and, where the node may
answer by itself, a band; inside it each round of plans chooses anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from semipd_core.errors import InvalidSpec
from semipd_core.latency.nexus import StepModel
from semipd_core.latency.share_curve import RoleCurves
from semipd_core.messages import LaneHello
from semipd_core.partition import Band, Isolation, Partition, Role
from semipd_core.policies.splits import legal_splits
from semipd_core.sm_splits import SmSplit, nearest_split, read_green_grant
from semipd_core.step_split import StepChoice, StepLoad, StepRule
from semipd_core.telemetry import SloTargets, StepSample

REFIT_STEPS = 8  # steps between two fits of their costs
TPOT_PART = 0.9  # of the TPOT target, that a predicted decode step may take
TTFT_PART = 0.5  # of the TTFT target, that one chunk may take while the cache drains: prompts also wait
WHOLE = Partition(prefill_percent=100, decode_percent=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitSettings:
    """What the choice needs beside what it sees. `takes_turns`: as in `StepModel`."""

    rule: StepRule = field(default_factory=StepRule)
    curves: RoleCurves = field(default_factory=RoleCurves)
    takes_turns: bool = True
    learns_curves: bool = False  # they are assumed ones: steps at several shares correct them

    @classmethod
    def of(
        cls,
        slo: SloTargets,
        curves: RoleCurves | None = None,
        *,
        takes_turns: bool = True,
        learns_curves: bool = False,
    ) -> SplitSettings:
        rule = StepRule(prefill_limit_ms=TTFT_PART * slo.ttft_ms, decode_limit_ms=TPOT_PART * slo.tpot_ms)
        return cls(
            rule=rule, curves=curves or RoleCurves(), takes_turns=takes_turns, learns_curves=learns_curves
        )

    def start(self) -> StepModel:
        if self.learns_curves:
            return StepModel.learning(self.curves)
        return StepModel(
            curve=self.curves.prefill, decode_curve=self.curves.decode, takes_turns=self.takes_turns
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StepAtHand:
    """The newest step of a lane, in flight or just planned; as in `StepSample`."""

    rows: int
    tokens: int
    context_tokens: int


class SplitChoice:
    """Mutable, the coordinator's own."""

    def __init__(self, settings: SplitSettings) -> None:
        self._settings = settings
        self._steps = settings.start()
        self._unseen: list[StepSample] = []
        self._device_splits: tuple[SmSplit, ...] = ()  # that lanes have made; empty: any percent (CPU)
        self._band: Band | None = None
        self.target = WHOLE
        self.choices: tuple[Partition, ...] = (WHOLE,)
        self.current = WHOLE
        self.last: StepChoice | None = None

    # --- what is wished for -------------------------------------------------------------------------------------

    def wish(self, target: Partition, band: Band | None) -> None:
        """`band`: None where only the target may run."""
        self.target, self._band = target, band
        self._list_choices()

    def receive(self, hello: LaneHello) -> LaneHello:
        """A lane says which splits it has made; one that says nothing takes any. It is granted what the wish comes to on it."""
        if hello.splits and hello.splits != self._device_splits:
            self._device_splits = hello.splits
            self._list_choices()
        return msgspec.structs.replace(
            hello,
            requested_percent=self.target.percent(hello.role),
            granted_percent=self.granted(hello.role),
        )

    def granted(self, role: Role) -> int:
        """What the wish's target comes to on the device, in percent."""
        wanted = self.target.percent(role)
        if not self._device_splits:
            return wanted
        split = nearest_split(self._device_splits, self.target)
        sms = split.prefill_sms if role is Role.PREFILL else split.decode_sms
        return read_green_grant(wanted, sms, split.sm_count).percent

    @property
    def sm_split(self) -> SmSplit | None:
        """The present choice as lanes know it; None where they have made none."""
        if not self._device_splits:
            return None
        by_partition = {split.partition: split for split in self._device_splits}
        return by_partition[self.current]

    def _list_choices(self) -> None:
        only = self._nearest(self.target)
        inside = self._inside(self._band) if self._band is not None else ()
        self.choices = inside or (only,)
        self.current = only if self.last is None or self.current not in self.choices else self.current

    def _nearest(self, wanted: Partition) -> Partition:
        return nearest_split(self._device_splits, wanted).partition if self._device_splits else wanted

    def _inside(self, band: Band) -> tuple[Partition, ...]:
        if self._device_splits:
            every = (split.partition for split in self._device_splits)
            return tuple(split for split in every if band.holds(split))
        try:
            return legal_splits(Isolation.GREEN_CONTEXT, band)
        except InvalidSpec:
            return ()

    # --- what is seen -------------------------------------------------------------------------------------------

    def observe(self, sample: StepSample) -> None:
        """A completed step. Fitted now and then: a fit costs more than a choice."""
        self._unseen.append(sample)
        if len(self._unseen) >= REFIT_STEPS:
            self._steps = self._steps.observe("", self._unseen)
            self._unseen.clear()

    @property
    def curves(self) -> RoleCurves:
        """As they are known by now."""
        return RoleCurves(
            prefill=self._steps.curve_of(Role.PREFILL), decode=self._steps.curve_of(Role.DECODE)
        )

    # --- the choice ---------------------------------------------------------------------------------------------

    def choose(
        self, prefill: StepAtHand | None, decode: StepAtHand | None, kv_used_permille: float
    ) -> StepChoice:
        """For the steps at hand; `current` is its split from here on."""
        load = StepLoad(
            has_prefill=prefill is not None,
            has_decode=decode is not None,
            prefill_lone_ms=self._prefill_ms(prefill) if decode is not None else None,
            decode_lone_ms=self._decode_ms(decode) if prefill is not None else None,
            kv_used_permille=kv_used_permille,
        )
        choice = self._settings.rule.choose(
            load, self.choices, self.current, self._nearest(self.target), self.curves
        )
        self.current, self.last = choice.split, choice
        return choice

    def _prefill_ms(self, step: StepAtHand | None) -> float | None:
        if step is None or len(self.choices) == 1 or not self._steps.prefill.is_trusted:
            return None
        context_tokens = step.context_tokens / max(1, step.rows)
        return self._steps.prefill_ms(tokens=step.tokens, context_tokens=context_tokens)

    def _decode_ms(self, step: StepAtHand | None) -> float | None:
        if step is None or len(self.choices) == 1 or not self._steps.decode.is_trusted:
            return None
        return self._steps.decode_ms(rows=step.rows, context_tokens=step.context_tokens)
