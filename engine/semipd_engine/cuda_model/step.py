"""One step under way: launched as far as the caller wants, then on its way back to the host."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from semipd_engine.cuda_model.decoder import Forward
from semipd_engine.cuda_model.device import Arrival, StepDevice
from semipd_engine.lane.step_loop import StepOutcome

TOKENS, LOGPROBS = 0, 1  # rows of what is downloaded: ids, and fp64 in the bits of int64


class RunningStep:
    """forward: None where a graph has launched everything. end: launches what follows the layers, and the download."""

    def __init__(
        self,
        device: StepDevice,
        forward: Forward | None,
        end: Callable[[Forward | None], Arrival],
        result: Tensor,
        *,
        num_rows: int,
        sampled_rows: Sequence[int],
        wants_logprobs: Sequence[bool],
    ) -> None:
        """result: (2, capacity) int64 on the host, valid once the arrival is done."""
        self._device = device
        self._forward = forward
        self._end = end
        self._result = result
        self._num_rows = num_rows
        self._sampled_rows = sampled_rows
        self._wants_logprobs = wants_logprobs
        self._arrival: Arrival | None = None
        if forward is None:
            self.advance(0)

    @property
    def layers_left(self) -> int:
        return 0 if self._forward is None else self._forward.layers_left

    @torch.inference_mode()
    def advance(self, layers: int) -> None:
        """Launch the next `layers` layers; with the last of them the head, the sampling and the download."""
        if self._arrival is not None:
            return
        with self._device.stream():
            if self._forward is not None:
                self._forward.advance(layers)
            if self.layers_left == 0:
                self._arrival = self._end(self._forward)

    def is_done(self) -> bool:
        return self._arrival is not None and self._arrival.is_done()

    def outcome(self) -> StepOutcome:
        """Waits for the device. Only for a step that is launched whole."""
        assert self._arrival is not None, f"{self.layers_left} layers are not launched"
        self._arrival.wait()
        samples = len(self._sampled_rows)
        chosen = self._result[TOKENS, :samples].tolist()
        scores = self._result[LOGPROBS].view(torch.float64)[:samples].tolist()
        tokens: list[int | None] = [None] * self._num_rows
        logprobs: list[float | None] = [None] * self._num_rows
        for row, token, score, wanted in zip(
            self._sampled_rows, chosen, scores, self._wants_logprobs, strict=True
        ):
            tokens[row] = token
            logprobs[row] = score if wanted else None
        return StepOutcome(tokens=tokens, logprobs=logprobs, compute_ns=self._arrival.compute_ns())
