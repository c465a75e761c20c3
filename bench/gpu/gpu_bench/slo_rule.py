"""SLOs by semi-PD's own rule: multiples of what one request alone takes on this card. Pure.

Source: semi-PD, arXiv 2504.19867, evaluation: tight 7.5 times, loose 10 times the latency of a single request.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from semipd_core.telemetry import SloTargets

FACTORS: Mapping[str, float] = {"tight": 7.5, "loose": 10.0}
PERCENTILE = 90


def targets(ttfts_ms: Sequence[float], tpots_ms: Sequence[float], factor: float) -> SloTargets:
    """From single requests of the workload's lengths, one after the other: their medians.

    Raises: ValueError without any.
    """
    if not ttfts_ms or not tpots_ms:
        raise ValueError("an SLO of no single requests")
    return SloTargets(
        ttft_percentile=PERCENTILE,
        ttft_ms=math.ceil(factor * statistics.median(ttfts_ms)),
        tpot_percentile=PERCENTILE,
        tpot_ms=math.ceil(factor * statistics.median(tpots_ms)),
    )
