"""The choice of an upstream: alive first, then the one that holds the prompt's prefix, unless it is much more loaded.

Bounded imbalance as in consistent hashing with bounded loads (Mirrokni et al., arXiv 1608.01350), with a slack for small numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from statistics import median_low


class Health(IntEnum):
    """Better ones are smaller."""

    READY = 0
    LEAVING = 1  # it drains: it may refuse, and what it takes it finishes
    DOWN = 2  # not ready, or set aside after it refused a connection


class Reason(StrEnum):
    PREFIX = "Prefix"
    LEAST_LOADED = "LeastLoaded"
    LAST_RESORT = "LastResort"  # none is ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """`others_open`: requests open on it that are not ours, by its own word; None: not known."""

    name: str
    health: Health = Health.READY
    own_open: int = 0
    others_open: int | None = None
    num_served: int = 0  # equals take turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """A pod with the prefix is passed over above both least load + `slack` and least load × `percent` / 100."""

    slack: int = 4  # requests
    percent: int = 150

    def limit(self, least: int) -> int:
        return max(least + self.slack, least * self.percent // 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    name: str
    reason: Reason
    matched_blocks: int = 0


def choose(
    candidates: Sequence[Candidate],
    matches: Mapping[str, int],
    prefix: int | None = None,
    bounds: Bounds | None = None,
) -> Choice:
    """One of `candidates`, which are at least one.

    `matches`: by name, the blocks of the prompt's prefix that it has seen. `prefix`: of the prompt's first block, so that
    proxies that have not seen it agree on who gets it, among equally loaded ones; None: the prompt has no whole block.
    """
    health = min(each.health for each in candidates)
    alive = [each for each in candidates if each.health is health]
    loads = estimate_loads(alive)
    limit = (bounds or Bounds()).limit(min(loads.values()))
    able = [each for each in alive if loads[each.name] <= limit and matches.get(each.name, 0) > 0]
    if able:
        best = min(able, key=lambda each: (-matches[each.name], loads[each.name], each.name))
        return _choice(best, health, Reason.PREFIX, matches[best.name])
    best = min(alive, key=lambda each: (loads[each.name], _turn(each, prefix), each.name))
    return _choice(best, health, Reason.LEAST_LOADED, 0)


def estimate_loads(candidates: Sequence[Candidate]) -> dict[str, int]:
    """Open requests by name. A pod that says nothing is taken to be as loaded by others as the middle one of those that do."""
    known = [each.others_open for each in candidates if each.others_open is not None]
    usual = median_low(known) if known else 0
    return {
        each.name: each.own_open + (usual if each.others_open is None else each.others_open)
        for each in candidates
    }


def _turn(candidate: Candidate, prefix: int | None) -> int:
    """Rendezvous hashing for a prompt with a prefix, turns for one without."""
    if prefix is None:
        return candidate.num_served
    key = prefix.to_bytes(8, "big") + candidate.name.encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")


def _choice(candidate: Candidate, health: Health, reason: Reason, matched: int) -> Choice:
    found = reason if health is Health.READY else Reason.LAST_RESORT
    return Choice(name=candidate.name, reason=found, matched_blocks=matched)
