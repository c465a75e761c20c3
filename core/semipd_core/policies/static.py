"""Never moves: the baseline, and `mode: Static`."""

from __future__ import annotations

from dataclasses import dataclass

from semipd_core.policies.decision import Decision, PolicyInputs, Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Static:
    def decide(self, inputs: PolicyInputs) -> Decision:
        return inputs.hold(Reason.STATIC, f"the split stays at {inputs.current}")
