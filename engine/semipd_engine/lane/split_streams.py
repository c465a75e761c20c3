"""One role's torch streams, one for each split: launches go to that of the present split, and keep their order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from semipd_core.partition import Role
from semipd_core.sm_splits import SmSplit
from semipd_engine.cuda.green import StreamPair

Stream = Any  # torch.cuda.Stream, or a test's


class SplitStreams:
    """`current` is the stream to launch on; changes of the split keep the order of what was launched before."""

    def __init__(self, streams: Mapping[SmSplit, Stream], start: SmSplit) -> None:
        self.by_split = dict(streams)
        self.split = start

    @classmethod
    def of(
        cls,
        pairs: Sequence[StreamPair],
        role: Role,
        wrap: Callable[[int], Stream] = torch.cuda.ExternalStream,
    ) -> SplitStreams:
        """The handles outlive the streams made of them."""
        handle = "prefill_stream" if role is Role.PREFILL else "decode_stream"
        made: dict[int, Stream] = {}
        for pair in pairs:
            made.setdefault(getattr(pair, handle), wrap(getattr(pair, handle)))
        return cls({pair.split: made[getattr(pair, handle)] for pair in pairs}, pairs[0].split)

    @property
    def current(self) -> Stream:
        return self.by_split[self.split]

    def select(self, split: SmSplit | None) -> None:
        """None: stay. Raises: KeyError for a split that no streams were made for."""
        if split is None or split == self.split:
            return
        before, after = self.current, self.by_split[split]
        if after is not before:
            after.wait_stream(before)
        self.split = split

    def mark(self) -> StreamMark:
        return StreamMark(self.current.record_event())


class StreamMark:
    def __init__(self, event: Any) -> None:
        self._event = event

    def is_done(self) -> bool:
        return bool(self._event.query())
