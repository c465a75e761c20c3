"""What the lane with both roles on a GPU runs before it is ready: in which order, and on which streams."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from semipd_core.partition import Band, Role
from semipd_core.sm_splits import Layout, SmSplit, legal_splits

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is on Linux only")
ANY = Band(prefill_min_percent=1, prefill_max_percent=100, decode_min_percent=1, decode_max_percent=100)


class FakeStream:
    def wait_stream(self, other: FakeStream) -> None:
        pass


@pytest.fixture
def warmed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Layout], Any]:
    """Builds both sides; what was run in which order: the role, what, and the split."""
    from semipd_engine.lane import duplex_cuda
    from semipd_engine.lane.split_streams import SplitStreams

    def build(layout: Layout) -> Any:
        splits = legal_splits(132, 8, 8, ANY, layout)
        shared = FakeStream()
        is_shared = layout is Layout.ASYMMETRIC
        streams = {
            Role.PREFILL: SplitStreams({split: FakeStream() for split in splits}, splits[0]),
            Role.DECODE: SplitStreams(
                {split: shared if is_shared else FakeStream() for split in splits}, splits[0]
            ),
        }
        ran: list[tuple[Role, str, SmSplit]] = []

        def executor_of(_config: Any, _arenas: Any, _device: Any, role: Role) -> Any:
            def run(what: str) -> Callable[[], None]:
                return lambda: ran.append((role, what, streams[role].split))

            return SimpleNamespace(depth=2, warm_up=run("all"), warm_stream=run("largest"))

        monkeypatch.setattr(duplex_cuda.CudaExecutor, "build", executor_of)
        monkeypatch.setattr(duplex_cuda, "build_device", lambda *_: None)
        sides = duplex_cuda.build_sides(None, None, streams, 0)  # type: ignore[arg-type]
        assert sides.splits == splits
        assert [each.split for each in streams.values()] == [splits[0]] * 2
        return splits, ran

    return build


def test_decode_captures_before_prefill_takes_its_memory_on_every_stream(
    warmed: Callable[[Layout], Any],
) -> None:
    """A capture gives back to the device what torch's allocator keeps for prompts."""
    splits, ran = warmed(Layout.DISJOINT)
    assert ran == [
        (role, "largest" if number else "all", split)
        for role in (Role.DECODE, Role.PREFILL)
        for number, split in enumerate(splits)
    ]


def test_the_one_stream_of_decode_on_all_sms_is_warm_at_once(warmed: Callable[[Layout], Any]) -> None:
    splits, ran = warmed(Layout.ASYMMETRIC)
    assert [what for role, what, _ in ran if role is Role.DECODE] == ["all"]
    assert len([what for role, what, _ in ran if role is Role.PREFILL]) == len(splits)
