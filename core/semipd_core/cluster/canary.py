"""A split on trial in a few pods, the pods that there are to try it, and the split that failed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from semipd_core.api.service import CanaryStage
from semipd_core.cluster.verdicts import NOTHING_JUDGED, Verdicts
from semipd_core.partition import Partition, Role, Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A pod of the service that is not leaving. `engines`: ids of its reports."""

    name: str
    engines: tuple[str, ...] = ()
    is_ready: bool = True
    applied_id: str | None = None  # the decision whose split all its engines were granted
    template: str | None = None  # digest of the pod template that it runs; None: not known


Fleet = Sequence[Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Times are unix seconds."""

    wish: Wish  # what `pods` are asked for
    pods: tuple[str, ...]  # by name
    stage: CanaryStage  # OnePod or Percent
    stage_s: float  # since when
    granted_s: float | None = None  # when all `pods` were first seen to have it
    before: Verdicts = NOTHING_JUDGED  # of the window in which it was decided


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A split that did worse than `base`."""

    split: Partition
    base: Partition
    decision_id: str
    at_s: float  # unix time
    until_s: float

    def holds_back(self, split: Partition, now_s: float) -> bool:
        """Whether `split` is the one that failed, or lies as far or farther from `base` the same way."""
        return now_s < self.until_s and all(
            self._is_as_far(split, role) for role in (Role.PREFILL, Role.DECODE)
        )

    def _is_as_far(self, split: Partition, role: Role) -> bool:
        failed = self.split.percent(role) - self.base.percent(role)
        way = split.percent(role) - self.base.percent(role)
        return failed == 0 or (way >= failed if failed > 0 else way <= failed)


def stage_size(stage: CanaryStage, pods: int, percent: int) -> int:
    """How many of `pods` may try a split, at least one."""
    return 1 if stage is CanaryStage.ONE_POD else max(1, math.ceil(pods * percent / 100))
