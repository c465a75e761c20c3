"""Field types that several objects share. Integers only; the unit is in the field's name."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated

from semipd_core.api.model_uri import ModelUriMark
from semipd_core.api.quantity import CpuMark, MemoryMark
from semipd_core.api.wire import Between, Matches, wire

GROUP = "semipd.io"
API_VERSION = "semipd.io/v1alpha1"

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"

Percent = Annotated[int, Between(1, 100)]
Permille = Annotated[int, Between(0, 1000)]
Percentile = Annotated[int, Between(1, 99)]
Count = Annotated[int, Between(0, 100_000)]
Positive = Annotated[int, Between(1, 100_000)]
Milliseconds = Annotated[int, Between(1, 600_000)]
Seconds = Annotated[int, Between(0, 86_400)]
DnsLabel = Annotated[
    str,
    Matches(
        _LABEL, "a DNS label: a-z, 0-9 and '-', a letter or digit at both ends, at most 63 characters", 63
    ),
]
ServiceName = Annotated[
    str,
    Matches(
        r"[a-z]([-a-z0-9]*[a-z0-9])?",
        "a DNS label that begins with a letter: a-z, 0-9 and '-', a letter or digit at the end, at most 63 characters",
        63,
    ),
]
DnsSubdomain = Annotated[
    str,
    Matches(rf"{_LABEL}(\.{_LABEL})*", "a DNS subdomain: DNS labels joined by '.', at most 253 characters"),
]
_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"  # of a label, behind its prefix
LABEL_KEY = Matches(
    rf"({_LABEL}(\.{_LABEL})*/)?{_NAME}",
    "a label key: NAME or DNS-SUBDOMAIN/NAME, where NAME has A-Z, a-z, 0-9, '-', '_' and '.', a letter or digit at both ends, "
    "at most 63 characters",
    317,
)
LabelKey = Annotated[str, LABEL_KEY]
LabelValue = Annotated[
    str,
    Matches(
        rf"({_NAME})?",
        "a label value: A-Z, a-z, 0-9, '-', '_' and '.', a letter or digit at both ends, at most 63 characters, or empty",
        63,
    ),
]
NodeSelector = Mapping[str, LabelValue]  # keys: `rules`
NonEmpty = Annotated[str, Matches(r"(?s:.+)", "a string that is not empty, at most 253 characters")]
Quantity = Annotated[str | int, MemoryMark()]
CpuQuantity = Annotated[str | int, CpuMark()]
ModelUriText = Annotated[str, ModelUriMark()]


class Device(StrEnum):
    AUTO = "Auto"
    CUDA = "CUDA"
    CPU = "CPU"


@wire
class PartitionSplit:
    """A pair of caps in percent of the device's SMs; sums above 100 are legal."""

    prefill_percent: Percent
    decode_percent: Percent


@wire
class ShareBounds:
    """Caps that may be chosen, inclusive."""

    prefill_min_percent: Percent = 20
    prefill_max_percent: Percent = 100
    decode_min_percent: Percent = 40
    decode_max_percent: Percent = 100


@wire
class AllowedShares(ShareBounds):
    """What the bounds of services are cut to: nothing is, where nothing is said."""

    prefill_min_percent: Percent = 1
    decode_min_percent: Percent = 1


@wire
class LocalRef:
    """An object in the same namespace (a class is found cluster-wide)."""

    name: DnsSubdomain


@wire
class SecretKeyRef:
    name: DnsSubdomain
    key: NonEmpty


class TolerationOperator(StrEnum):
    EXISTS = "Exists"
    EQUAL = "Equal"


class TaintEffect(StrEnum):
    NO_SCHEDULE = "NoSchedule"
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    NO_EXECUTE = "NoExecute"


@wire
class Toleration:
    """As in a pod: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/."""

    key: LabelKey | None = None  # None: all keys, with Exists
    operator: TolerationOperator | None = None  # None: Equal
    value: LabelValue | None = None
    effect: TaintEffect | None = None  # None: all effects
    toleration_seconds: int | None = None  # for NoExecute; None: for ever
