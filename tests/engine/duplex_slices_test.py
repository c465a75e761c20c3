"""Both roles on a GPU from one thread, with a device that the test drives: who is launched when, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inline_device import InlineDevice, RecordedGraphs

from semipd_core import messages
from semipd_core.partition import Band
from semipd_core.sm_splits import GraphKey, Layout, SmSplit, legal_splits
from semipd_engine.lane.duplex_slices import (
    SLICE_LAYERS_MAX,
    SLICES_AHEAD,
    LaunchedDecode,
    SlicedPrefill,
    slice_layers,
)
from semipd_engine.lane.split_device import SplitGraphs, SplitStepDevice
from semipd_engine.lane.split_streams import SplitStreams

ANY = Band(prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100)
SPLITS = legal_splits(132, 8, 8, ANY)
SHARED = legal_splits(132, 8, 8, ANY, Layout.ASYMMETRIC)


@dataclass
class Outcome:
    tokens: list[int | None]
    logprobs: list[float | None]
    compute_ns: int = 5


@dataclass
class Device:
    """Launches in their order, each with the split that it went to; the device gets on only when told."""

    split: SmSplit | None = None
    launches: list[tuple[str, int, SmSplit | None]] = field(default_factory=list)
    done: int = 0  # launches that have run

    def select(self, split: SmSplit | None) -> None:
        self.split = split or self.split

    def launch(self, what: str, layers: int) -> int:
        self.launches.append((what, layers, self.split))
        return len(self.launches)

    def mark(self) -> Mark:
        return Mark(self, len(self.launches))


@dataclass
class Mark:
    device: Device
    place: int

    def is_done(self) -> bool:
        return self.device.done >= self.place


class Step:
    def __init__(self, device: Device, name: str, layers: int, rows: int) -> None:
        self._device, self._name, self.layers_left, self._rows = device, name, layers, rows
        self._last = 0

    def advance(self, layers: int) -> None:
        assert 1 <= layers <= self.layers_left
        self.layers_left -= layers
        self._last = self._device.launch(self._name, layers)

    def is_done(self) -> bool:
        return self.layers_left == 0 and self._device.done >= self._last

    def outcome(self) -> Outcome:
        assert self.layers_left == 0
        self._device.done = max(self._device.done, self._last)
        return Outcome([7] * self._rows, [None] * self._rows)


@dataclass
class Executor:
    device: Device
    name: str
    layers: int = 4

    def start(self, plan: messages.StepPlan) -> Step:
        return Step(self.device, self.name, self.layers, len(plan.rows))


def plan(tokens: int = 1, split: SmSplit | None = None, epoch: int = 1) -> messages.StepPlan:
    row = messages.Row(
        slot=0, start=0, tokens=[1] * tokens, blocks_from=0, blocks=[1], sampling=messages.Sampling()
    )
    return messages.StepPlan(epoch=epoch, rows=[row], request_ids=["r"], split=split)


@given(st.integers(1, 40_000), st.integers(1, 100))
def test_a_slice_is_a_layer_at_least_and_never_more_than_is_left(num_tokens, layers_left):
    layers = slice_layers(num_tokens, layers_left)
    assert 1 <= layers <= layers_left
    assert layers == 1 or layers * num_tokens <= 65536
    assert layers <= SLICE_LAYERS_MAX


def test_a_chunk_of_the_default_budget_gives_decode_its_chances():
    """Of a model of 32 layers: a decode step is launched between its layers, not after them."""
    device = Device()
    chances: list[float] = []

    def between(wait_s: float) -> None:
        chances.append(wait_s)
        device.done += bool(wait_s)

    SlicedPrefill(Executor(device, "prefill", layers=32), device, depth=1).launch(plan(2048), between)
    assert chances.count(0.0) >= 8


def test_a_chunk_is_launched_only_as_the_device_gets_on():
    device = Device()
    ahead: list[int] = []

    def between(wait_s: float) -> None:
        ahead.append(len(device.launches) - device.done)
        if wait_s:
            device.done += 1

    prefill = SlicedPrefill(Executor(device, "prefill", layers=8), device, depth=1)
    prefill.launch(plan(65536), between)
    (done,) = prefill.finished(wait=True)
    assert [layers for _, layers, _ in device.launches] == [1] * 8
    assert max(ahead) <= SLICES_AHEAD
    assert done.tokens == [7]
    assert done.compute_ns == 5


def test_decode_is_asked_before_every_slice_and_while_a_slice_must_wait():
    device = Device()
    chances: list[float] = []

    def between(wait_s: float) -> None:
        chances.append(wait_s)
        if wait_s:
            device.done += 1

    SlicedPrefill(Executor(device, "prefill", layers=4), device, depth=1).launch(plan(65536), between)
    assert chances.count(0.0) == 4
    assert device.done == 4 - SLICES_AHEAD


def test_the_next_chunk_is_launched_behind_the_one_before_whose_result_is_told_meanwhile():
    device = Device()
    prefill = SlicedPrefill(Executor(device, "prefill", layers=4), device, depth=2)
    told: list[tuple[int, int]] = []  # epoch, slices launched by then
    ahead: list[int] = []

    def between(wait_s: float) -> None:
        ahead.append(len(device.launches) - device.done)
        device.done += bool(wait_s)
        told.extend((done.plan.epoch, len(device.launches)) for done in prefill.finished())

    for epoch in (1, 2):
        assert prefill.delay_s() == 0
        prefill.launch(plan(65536, SPLITS[epoch], epoch), between)
    assert told == [(1, 5)], "the first chunk's result came when a slice of the second was launched"
    assert max(ahead) <= SLICES_AHEAD, "slices of both chunks"
    assert [split for _, _, split in device.launches] == [SPLITS[1]] * 4 + [SPLITS[2]] * 4
    assert [done.plan.epoch for done in prefill.finished(wait=True)] == [2]


def test_chunks_in_flight_are_bounded():
    device = Device()
    prefill = SlicedPrefill(Executor(device, "prefill", layers=1), device, depth=2)
    for epoch in (1, 2):
        prefill.launch(plan(epoch=epoch), lambda _: None)
    assert (prefill.in_flight, prefill.finished()) == (2, [])
    assert prefill.delay_s() > 0
    device.done = 1
    assert [done.plan.epoch for done in prefill.finished()] == [1]
    assert prefill.delay_s() == 0


def test_decode_steps_go_between_the_slices_on_their_own_split():
    device, decode_device = Device(), Device()
    decode = LaunchedDecode(Executor(decode_device, "decode"), decode_device, depth=1)
    told = []

    def between(wait_s: float) -> None:
        if not decode.delay_s():
            decode.launch(plan(split=SPLITS[3]))
        device.done += bool(wait_s)
        decode_device.done += bool(wait_s)
        told.extend(decode.finished())

    prefill = SlicedPrefill(Executor(device, "prefill", layers=6), device, depth=1)
    prefill.launch(plan(65536, SPLITS[3]), between)
    assert {split for _, _, split in device.launches} == {SPLITS[3]}
    assert {(layers, split) for _, layers, split in decode_device.launches} == {(4, SPLITS[3])}
    assert len(told) >= 2


def test_steps_in_flight_are_bounded_and_told_in_the_order_of_their_launch():
    device = Device()
    now = iter(range(0, 10_000, 10))
    decode = LaunchedDecode(Executor(device, "decode"), device, depth=2, clock_ns=lambda: next(now))
    for epoch in (1, 2):
        assert decode.delay_s() == 0
        decode.launch(plan(epoch=epoch))
    assert decode.delay_s() > 0
    assert decode.finished() == []
    device.done = 1
    (first,) = decode.finished()
    assert (first.plan.epoch, decode.in_flight) == (1, 1)
    (second,) = decode.finished(wait=True)
    assert second.plan.epoch == 2
    assert first.finished_ns <= second.started_ns, "steps run one after the other"


class FakeStream:
    def __init__(self, handle: int = 0) -> None:
        self.handle = handle

    def wait_stream(self, other: FakeStream) -> None:
        pass


def streams_of(splits: tuple[SmSplit, ...], *, shared: bool) -> SplitStreams:
    one = FakeStream()
    return SplitStreams({split: one if shared else FakeStream() for split in splits}, splits[0])


def recorded() -> tuple[list[RecordedGraphs], Callable[[object], RecordedGraphs]]:
    made: list[RecordedGraphs] = []

    def on(_stream: object) -> RecordedGraphs:
        made.append(RecordedGraphs())
        return made[-1]

    return made, on


def test_confined_decode_replays_the_graph_of_its_split():
    streams = streams_of(SPLITS[:2], shared=False)
    made, graphs_on = recorded()
    graphs = SplitGraphs(streams, graphs_on)
    graphs.capture(8, lambda: None)
    assert [each.captured for each in made] == [[GraphKey(split=split, bucket=8)] for split in SPLITS[:2]]
    streams.select(SPLITS[1])
    graphs.replay(8)
    assert [len(each.replayed) for each in made] == [0, 1]
    with pytest.raises(KeyError):
        graphs.replay(16)


def test_decode_on_all_sms_has_one_graph_for_all_splits():
    streams = streams_of(SHARED, shared=True)
    made, graphs_on = recorded()
    graphs = SplitGraphs(streams, graphs_on)
    graphs.capture(8, lambda: None)
    assert sum(len(each.captured) for each in made) == 1
    for split in SHARED:
        streams.select(split)
        graphs.replay(8)
    assert sum(len(each.replayed) for each in made) == len(SHARED)


def test_a_device_of_splits_is_that_of_the_split_at_hand():
    streams = streams_of(SPLITS[:2], shared=False)
    used = []

    class Marked(InlineDevice):
        __slots__ = ("stream_of",)

        def mark(self) -> object:
            used.append(self.stream_of)
            return None

    def marked_on(stream: object) -> InlineDevice:
        device = Marked()
        device.stream_of = stream
        return device

    device = SplitStepDevice(streams, marked_on, recorded()[1])
    first = streams.current
    device.mark()
    streams.select(SPLITS[1])
    device.mark()
    assert used == [first, streams.current]
    assert first is not streams.current
