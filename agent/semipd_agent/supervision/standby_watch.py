"""What one engine's supervisor knows of its standby lanes: the facts for their choice, and what came of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence

from semipd_agent.supervision.standby import StandbyFacts
from semipd_agent.supervision.standby_rules import form_of, is_warm
from semipd_agent.supervision.view import EngineView
from semipd_core.agent_config import StandbySettings, SwitchStatus
from semipd_core.partition import Partition, Role
from semipd_core.repartition import SwitchForm


class StandbyWatch:
    """Counts are since this agent began. `free_bytes`: of the memory that the engine's lanes take."""

    def __init__(self, settings: StandbySettings, free_bytes: Callable[[], int | None]) -> None:
        self._settings = settings
        self._free_bytes = free_bytes
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
            free_bytes=self._free_bytes(),
            wished=tuple(wished),
        )

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
