"""A split pinned by hand: the annotation `semipd.io/pinned-split: "70/60"`, prefill percent / decode percent."""

from __future__ import annotations

import re
from dataclasses import dataclass

from semipd_core.cluster.state import bounds_of
from semipd_core.errors import InvalidSpec
from semipd_core.partition import Band, Isolation, Partition
from semipd_core.policies.splits import FREE_STEP_PERCENT, legal_splits
from semipd_operator.plan.effective import Effective
from semipd_operator.plan.isolation import fleet_partition
from semipd_operator.plan.naming import PIN_ANNOTATION
from semipd_operator.plan.observed import Observed

_FORM = re.compile(r"\s*(\d{1,3})\s*/\s*(\d{1,3})\s*", re.ASCII)
_PATH = f"metadata.annotations[{PIN_ANNOTATION}]"
MAX_SHOWN = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """`split` None: nothing is pinned; with a `defect`: what was pinned before stays."""

    split: Partition | None = None
    defect: InvalidSpec | None = None


def read_pin(observed: Observed, effective: Effective) -> Pin:
    given = observed.service.metadata.annotations.get(PIN_ANNOTATION)
    if given is None:
        return Pin()
    settings = fleet_partition(effective, observed)
    splits = legal_splits(settings.isolation, bounds_of(settings))
    match = _FORM.fullmatch(given)
    prefill, decode = (int(match[1]), int(match[2])) if match else (0, 0)
    for split in splits:
        if (split.prefill_percent, split.decode_percent) == (prefill, decode):
            return Pin(split=split)
    allowed = _allowed(settings.isolation, bounds_of(settings), splits)
    return Pin(defect=InvalidSpec(_PATH, given[:MAX_SHOWN], allowed))


def _allowed(isolation: Isolation, bounds: Band, splits: tuple[Partition, ...]) -> str:
    if isolation is not Isolation.MPS:
        return "one of " + ", ".join(f"{split.prefill_percent}/{split.decode_percent}" for split in splits)
    return (
        f"prefill/decode, such as {splits[-1].prefill_percent}/{splits[-1].decode_percent}: multiples of {FREE_STEP_PERCENT}, "
        f"prefill {bounds.prefill_min_percent}..{bounds.prefill_max_percent}, "
        f"decode {bounds.decode_min_percent}..{bounds.decode_max_percent}"
    )
