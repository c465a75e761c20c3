"""What is remembered of one HTTP request, for its log line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from semipd_engine.frontend.generation import Generation


@dataclass(slots=True, eq=False, kw_only=True)
class RequestRecord:
    request_id: str
    arrived_s: float  # monotonic
    generations: Sequence[Generation] = ()
    status: int | None = None  # None: no response was begun
    client_left: bool = False

    def log_fields(self) -> dict[str, object]:
        """TTFT and TPOT in ms: of the first token of any choice, and of the slowest choice."""
        if not self.generations:
            return {}
        ttfts = [one.ttft_s for one in self.generations if one.ttft_s is not None]
        tpots = [one.tpot_s for one in self.generations if one.tpot_s is not None]
        finishes = sorted({one.finish or "abort" for one in self.generations})
        return {
            "choices": len(self.generations),
            "prompt_tokens": sum(len(one.submit.prompt) for one in self.generations),
            "cached_tokens": sum(one.cached_tokens for one in self.generations),
            "output_tokens": sum(len(one.received) for one in self.generations),
            "ttft_ms": round(min(ttfts) * 1000, 1) if ttfts else None,
            "tpot_ms": round(max(tpots) * 1000, 1) if tpots else None,
            "finish": ",".join(finishes),
        }
