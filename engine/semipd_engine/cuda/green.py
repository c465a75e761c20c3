"""The stream pairs of a duplex lane: for each legal split, a stream for prefill and one for decode, made once at start.

A green context is never changed: another split is another pair, made from the whole device again. No torch: streams are integers
here, the driver's handles.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Self

from semipd_core.partition import Band
from semipd_core.sm_splits import Layout, SmSplit, legal_splits
from semipd_engine.cuda.driver import CudaError
from semipd_engine.cuda.green_driver import GreenDriver, SmResource

PREFILL_PRIORITY = 0
DECODE_PRIORITY = -1  # its kernels go first where both roles meet on an SM
STREAMS_PER_CONTEXT = 1
_WITHOUT_QUEUES = {"CUDA_ERROR_INVALID_RESOURCE_CONFIGURATION", "CUDA_ERROR_INVALID_RESOURCE_TYPE"}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamPair:
    """`split` is what was granted, read back. Streams are the driver's handles."""

    split: SmSplit
    prefill_stream: int
    decode_stream: int


class GreenContexts:
    """A context manager: `pairs` live until it ends. The caller has seen the device idle before that."""

    def __init__(
        self, driver: GreenDriver, device_index: int, bounds: Band, layout: Layout = Layout.DISJOINT
    ) -> None:
        self._driver = driver
        self._device_index = device_index
        self._bounds = bounds
        self._layout = layout
        self._owned = ExitStack()
        self.has_work_queues = False
        self.pairs: tuple[StreamPair, ...] = ()

    def __enter__(self) -> Self:
        """Raises: CudaError; InvalidSpec if the bounds hold no split of this device. Nothing is left then."""
        try:
            self.pairs = self._make_pairs()
        except BaseException:
            self._owned.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Streams before their contexts, the last ones first. Raises: the last CudaError, after all were tried."""
        self.pairs = ()
        self._owned.close()

    def _make_pairs(self) -> tuple[StreamPair, ...]:
        whole = self._driver.sm_resource(self._device_index)
        wanted = legal_splits(
            whole.sm_count, whole.rules.granularity, whole.rules.minimum, self._bounds, self._layout
        )
        if self._layout is Layout.ASYMMETRIC:
            shared = self._stream(None, DECODE_PRIORITY)
            made = [self._confine_prefill(whole, split, shared) for split in wanted]
        else:
            made = [self._divide(whole, split) for split in wanted]
        return tuple({pair.split: pair for pair in made}.values())  # two wishes may be granted the same

    def _confine_prefill(self, whole: SmResource, split: SmSplit, decode_stream: int) -> StreamPair:
        group, _ = self._driver.split(whole, split.prefill_sms)
        prefill_sms, stream = self._confined(group, PREFILL_PRIORITY)
        granted = SmSplit(prefill_sms=prefill_sms, decode_sms=whole.sm_count, sm_count=whole.sm_count)
        return StreamPair(split=granted, prefill_stream=stream, decode_stream=decode_stream)

    def _divide(self, whole: SmResource, split: SmSplit) -> StreamPair:
        group, rest = self._driver.split(whole, split.prefill_sms)
        if rest is None:
            raise CudaError("cuDevSmResourceSplitByCount", "NO_REMAINDER", f"{split}: the group took all SMs")
        prefill_sms, prefill_stream = self._confined(group, PREFILL_PRIORITY)
        decode_sms, decode_stream = self._confined(rest, DECODE_PRIORITY)
        granted = SmSplit(prefill_sms=prefill_sms, decode_sms=decode_sms, sm_count=whole.sm_count)
        return StreamPair(split=granted, prefill_stream=prefill_stream, decode_stream=decode_stream)

    def _confined(self, sms: SmResource, priority: int) -> tuple[int, int]:
        """SMs granted, and a stream on them."""
        context = self._context(sms)
        self._owned.callback(self._driver.destroy_context, context)
        return self._driver.granted_sms(context), self._stream(context, priority)

    def _context(self, sms: SmResource) -> int:
        """With work queues of its own where the driver gives them: else graphs of one role wait behind the other's launches."""
        queues = self._driver.work_queues(self._device_index, STREAMS_PER_CONTEXT)
        if queues is not None:
            try:
                context = self._create([sms.handle, queues])
            except CudaError as error:
                if error.code not in _WITHOUT_QUEUES:
                    raise
            else:
                self.has_work_queues = True
                return context
        return self._create([sms.handle])

    def _create(self, resources: Sequence[Any]) -> int:
        return self._driver.create_context(self._device_index, resources)

    def _stream(self, context: int | None, priority: int) -> int:
        stream = self._driver.create_stream(context, priority)
        self._owned.callback(self._driver.destroy_stream, stream)
        return stream
