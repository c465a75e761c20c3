"""What does the journal say? Pure: entries in, what to adopt, finish or roll back out.

`recover` folds entries into a `Journalled`; `snapshot` is its inverse, used to compact the file. A switch that was journalled
without `SwapSending` is rolled back (its wish stays open and is tried again); with it, it is finished.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from semipd_agent.journal import entries as entry
from semipd_core.agent_config import IsolationStatus, PartitionWire, SwitchStatus, WishWire
from semipd_core.repartition import Phase

SWITCHES_KEPT = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalledProcess:
    """A process that was started and whose exit is not journalled; `started` is None if only the intent is on disk."""

    starting: entry.Starting
    started: entry.Started | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalledEngine:
    partition: PartitionWire | None = None  # in force; None: the initial one
    wish: WishWire | None = None
    is_open: bool = False  # the wish is not concluded
    switch: SwitchStatus | None = None  # under way
    stage: Phase | None = None  # of the switch under way

    @property
    def resumed_phase(self) -> Phase:
        """Where an agent that adopts this engine goes on."""
        if self.switch is None or self.stage is None:
            return Phase.STARTING
        return Phase.ROLLING_BACK if self.stage is Phase.PREPARING else self.stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Journalled:
    processes: Mapping[str, JournalledProcess] = field(default_factory=dict)
    engines: Mapping[str, JournalledEngine] = field(default_factory=dict)
    switches: tuple[tuple[str, SwitchStatus], ...] = ()  # ended, oldest first, with their engines
    isolation: IsolationStatus | None = (
        None  # that was chosen at start; None: nothing was to choose, or not yet
    )


def recover(entries: Iterable[entry.AnyEntry], state: Journalled | None = None) -> Journalled:
    """`state` with `entries` after it; from nothing if None."""
    state = state or Journalled()
    for item in entries:
        state = _fold(state, item)
    return state


def _fold(state: Journalled, item: entry.AnyEntry) -> Journalled:
    match item:
        case entry.Starting(process=name):
            return _with_process(state, name, JournalledProcess(starting=item))
        case entry.Started(process=name) if name in state.processes:
            return _with_process(state, name, replace(state.processes[name], started=item))
        case entry.Exited(process=name):
            kept = {other: process for other, process in state.processes.items() if other != name}
            return replace(state, processes=kept)
        case entry.WishTaken(wish=wish, engine_ids=engine_ids, is_open=is_open):
            for engine_id in engine_ids:
                state = _with_engine(state, engine_id, wish=wish, is_open=is_open)
            return state
        case entry.IsolationChosen(isolation=isolation, reason=reason, message=message):
            chosen = IsolationStatus(isolation=isolation, reason=reason, message=message)
            return replace(state, isolation=chosen)
        case entry.SharesInForce(engine_id=engine_id, partition=partition):
            return _with_engine(state, engine_id, partition=partition)
        case entry.SwitchBegun() | entry.SwapSending() | entry.SwitchEffective() | entry.SwitchRollingBack():
            return _switch_step(state, item)
        case entry.SwitchEnded():
            return _switch_ended(state, item)
        case _:
            return state


def _switch_step(
    state: Journalled,
    item: entry.SwitchBegun | entry.SwapSending | entry.SwitchEffective | entry.SwitchRollingBack,
) -> Journalled:
    engine_id = item.engine_id
    if isinstance(item, entry.SwitchBegun):
        return _with_engine(state, engine_id, switch=item.switch, stage=Phase.PREPARING)
    switch = state.engines.get(engine_id, JournalledEngine()).switch
    if switch is None:
        return state
    if isinstance(item, entry.SwapSending):
        return _with_engine(state, engine_id, stage=Phase.SWAPPING, partition=switch.to_partition)
    if isinstance(item, entry.SwitchRollingBack):
        return _with_engine(state, engine_id, stage=Phase.ROLLING_BACK, partition=switch.from_partition)
    effective = _replaced(switch, seconds=item.seconds)
    return _with_engine(state, engine_id, stage=Phase.RETIRING, switch=effective)


def _switch_ended(state: Journalled, item: entry.SwitchEnded) -> Journalled:
    engine = state.engines.get(item.engine_id, JournalledEngine())
    concluded = engine.wish is not None and engine.wish.decision_id == item.switch.decision_id
    is_open = engine.is_open and (item.is_open or not concluded)
    partition = item.switch.to_partition if item.switch.outcome == "Done" else item.switch.from_partition
    state = _with_engine(state, item.engine_id, switch=None, stage=None, is_open=is_open, partition=partition)
    return replace(state, switches=(*state.switches, (item.engine_id, item.switch))[-SWITCHES_KEPT:])


def _with_process(state: Journalled, name: str, process: JournalledProcess) -> Journalled:
    return replace(state, processes={**state.processes, name: process})


def _with_engine(state: Journalled, engine_id: str, **changes: object) -> Journalled:
    engine = replace(state.engines.get(engine_id, JournalledEngine()), **changes)  # type: ignore[arg-type]
    return replace(state, engines={**state.engines, engine_id: engine})


def _replaced(switch: SwitchStatus, *, seconds: float) -> SwitchStatus:
    return msgspec.structs.replace(switch, seconds=seconds)


def snapshot(state: Journalled) -> list[entry.AnyEntry]:
    """The shortest entries that `recover` folds into `state` again."""
    entries: list[entry.AnyEntry] = [entry.Opened()]
    if (chosen := state.isolation) is not None:
        entries.append(
            entry.IsolationChosen(isolation=chosen.isolation, reason=chosen.reason, message=chosen.message)
        )
    for process in state.processes.values():
        entries += [process.starting] if process.started is None else [process.starting, process.started]
    entries += [entry.SwitchEnded(engine_id=engine_id, switch=switch) for engine_id, switch in state.switches]
    for engine_id, engine in state.engines.items():
        entries += _engine_snapshot(engine_id, engine)
    return entries


def _engine_snapshot(engine_id: str, engine: JournalledEngine) -> list[entry.AnyEntry]:
    entries: list[entry.AnyEntry] = []
    if engine.wish is not None:
        entries.append(entry.WishTaken(wish=engine.wish, engine_ids=[engine_id], is_open=engine.is_open))
    if engine.switch is not None:
        entries.append(entry.SwitchBegun(engine_id=engine_id, switch=engine.switch))
    if engine.stage in (Phase.SWAPPING, Phase.RETIRING):
        entries.append(entry.SwapSending(engine_id=engine_id))
    if engine.stage is Phase.ROLLING_BACK:
        entries.append(entry.SwitchRollingBack(engine_id=engine_id))
    if engine.stage is Phase.RETIRING and engine.switch is not None:
        entries.append(entry.SwitchEffective(engine_id=engine_id, seconds=engine.switch.seconds or 0.0))
    if engine.partition is not None:
        entries.append(entry.SharesInForce(engine_id=engine_id, partition=engine.partition))
    return entries
