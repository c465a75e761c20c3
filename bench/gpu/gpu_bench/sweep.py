"""Which of several candidates carries the highest rate? One short run each, then higher rates for those that keep. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gpu_bench.crossing import THRESHOLD
from gpu_bench.rate_search import BOTTOM, COARSE_STEPS, TOP

TELLING_SHARE = 0.5  # where nobody attains as much, the rate is too high to tell candidates apart


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A short run that the sweep wants next."""

    candidate: str
    step: int


def sweep(candidates: Sequence[str], shares: Mapping[tuple[str, int], float], step: int) -> Probe | str:
    """The next run, or the candidate that won. `shares`: attained in short runs, by candidate and step."""
    field, has_risen = list(candidates), False
    while True:
        missing = next((each for each in field if (each, step) not in shares), None)
        if missing is not None:
            return Probe(candidate=missing, step=step)
        at_step = {each: shares[each, step] for each in field}
        keeping = [each for each in field if at_step[each] >= THRESHOLD]
        if len(keeping) > 1 and step + COARSE_STEPS <= TOP:
            field, step, has_risen = keeping, step + COARSE_STEPS, True
        elif max(at_step.values()) < TELLING_SHARE and not has_risen and step - 2 * COARSE_STEPS >= BOTTOM:
            step -= 2 * COARSE_STEPS
        else:
            return max(field, key=lambda each: at_step[each])
