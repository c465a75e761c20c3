"""What one engine's supervisor knows of its standby lanes: the facts for their choice, and what came of them."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from semipd_agent.supervision.standby import StandbyFacts
from semipd_agent.supervision.standby_rules import form_of, is_warm
from semipd_agent.supervision.view import EngineView
from semipd_core.agent_config import StandbySettings, SwitchStatus
from semipd_core.partition import Partition, Role
from semipd_core.repartition import SwitchForm


class StandbyWatch:
    """Counts are since this agent began. `free_bytes`: of the memory that the engine's lanes take, as it was at `read_s`."""

    def __init__(
        self,
        settings: StandbySettings,
        free_bytes: Callable[[], int | None],
        read_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._free_bytes, self._read_s = free_bytes, read_s
        self._exits: list[tuple[float, int]] = []  # of lanes that were ended: when, and what they held
        self.hits: Counter[Role] = Counter()  # lanes of switches that stood by already
        self.misses: Counter[Role] = Counter()  # that had to be started
        self.switches: Counter[str] = Counter()  # done, by form
        self.switch_s: defaultdict[str, float] = defaultdict(float)  # from wish to effect, summed by form

    def facts(self, wished: Sequence[Partition]) -> StandbyFacts:
        if self._settings.lanes_max == 0:
            return StandbyFacts()
        return StandbyFacts(
            lanes_max=self._settings.lanes_max,
            max_age_s=self._settings.max_age_s,
            free_bytes=self._free_now_bytes(),
            wished=tuple(wished),
        )

    def note_exit(self, private_bytes: int) -> None:
        """Of a lane that was told to end: what it held is free, before anybody has looked."""
        self._exits = [*self._unseen_exits(), (time.monotonic(), private_bytes)]

    def _unseen_exits(self) -> list[tuple[float, int]]:
        read_s = self._read_s()
        return [(exited_s, freed_bytes) for exited_s, freed_bytes in self._exits if exited_s > read_s]

    def _free_now_bytes(self) -> int | None:
        found = self._free_bytes()
        self._exits = self._unseen_exits()
        return None if found is None else found + sum(freed_bytes for _, freed_bytes in self._exits)

    def note_prepared(self, view: EngineView) -> SwitchForm:
        """The form of the switch whose lanes are all attached."""
        for role in view.changed_roles:
            counter = self.hits if is_warm(view, role) else self.misses
            counter[role] += 1
        return form_of(view)

    def note_ended(self, switch: SwitchStatus) -> None:
        if switch.form is not None and switch.seconds is not None:
            self.switches[switch.form] += 1
            self.switch_s[switch.form] += switch.seconds
