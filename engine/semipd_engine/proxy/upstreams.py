"""What the proxy knows of each front end or pod, and which of them a request may go to. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from semipd_core.routing.choice import Candidate, Health
from semipd_core.routing.load import LoadSample
from semipd_core.routing.prefix import PrefixIndex

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A unix socket, or a host with ports."""

    socket_path: str | None = None
    host: str = "engine"
    port: int | None = None
    agent_port: int | None = None  # None: there is no agent to ask

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}" if self.port is None else f"http://{host}:{self.port}"

    @property
    def agent_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.agent_port}"


@dataclass(slots=True, eq=False, kw_only=True)
class Upstream:
    """`failures`: refused or broken connections since the last answer. Times are monotonic, in seconds."""

    name: str
    address: Address
    ready: bool = False  # as was said last, by itself or by the API server
    leaving: bool = False
    load: LoadSample | None = None
    num_open: int = 0  # requests of ours that it has not finished
    num_served: int = 0
    failures: int = 0
    set_aside_until_s: float = 0.0

    def note_failure(self, now_s: float) -> None:
        pause_s = min(FIRST_PAUSE_S * 2**self.failures, LONGEST_PAUSE_S)
        self.failures = min(self.failures + 1, 10)
        self.set_aside_until_s = now_s + pause_s

    def note_answer(self) -> None:
        self.failures = 0
        self.set_aside_until_s = 0.0

    def health(self, now_s: float) -> Health:
        """A fresh word of its agent counts more than the API server's, which may be away."""
        if now_s < self.set_aside_until_s:
            return Health.DOWN
        if self.leaving:
            return Health.LEAVING
        is_fresh = self.load is not None and self.load.is_fresh(now_s)
        ready = self.load.ready if self.load is not None and is_fresh else self.ready
        return Health.READY if ready else Health.DOWN

    def candidate(self, now_s: float) -> Candidate:
        return Candidate(
            name=self.name,
            health=self.health(now_s),
            own_open=self.num_open,
            others_open=self.load.others_open(now_s) if self.load is not None else None,
            num_served=self.num_served,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What there should be, as the API server says."""

    name: str
    address: Address
    ready: bool
    leaving: bool = False


@dataclass(slots=True, eq=False)
class Upstreams:
    """By name. One that is gone from the endpoints gets nothing new; what it holds goes on."""

    by_name: dict[str, Upstream] = field(default_factory=dict)
    prefixes: PrefixIndex = field(default_factory=PrefixIndex)

    def __iter__(self) -> Iterator[Upstream]:
        return iter(self.by_name.values())

    def __len__(self) -> int:
        return len(self.by_name)

    def candidates(self, now_s: float, without: Collection[str]) -> list[Candidate]:
        return [each.candidate(now_s) for each in self if each.name not in without]

    def is_any_ready(self, now_s: float) -> bool:
        return any(each.health(now_s) is not Health.DOWN for each in self)

    def sync(self, endpoints: Iterable[Endpoint]) -> list[Upstream]:
        """Take over the endpoints; the upstreams that are gone, or whose name has another address now."""
        wanted: Mapping[str, Endpoint] = {each.name: each for each in endpoints}
        gone = [each for each in self if each.name not in wanted or wanted[each.name].address != each.address]
        for each in gone:
            del self.by_name[each.name]
            self.prefixes.forget(each.name)
        for name, endpoint in wanted.items():
            found = self.by_name.setdefault(name, Upstream(name=name, address=endpoint.address))
            found.ready, found.leaving = endpoint.ready, endpoint.leaving
        return gone
