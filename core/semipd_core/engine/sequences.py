"""The live requests: in which queue each waits, and what it holds (slot, KV blocks) from admission to release."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from semipd_core.engine.blocks import BlockPool, Fence
from semipd_core.engine.config import CoordinatorConfig
from semipd_core.engine.prefill_scheduler import Need
from semipd_core.engine.prefix_cache import PrefixCache, extend_hashes
from semipd_core.engine.request import Request, RequestPhase
from semipd_core.partition import Role


class Sequences:
    """A live request is in exactly one queue: prefill, decode, a role's suspects, or held by a lost lane."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self.config = config
        self.pool = BlockPool(config.num_blocks, PrefixCache() if config.prefix_cache else None)
        self.live: dict[str, Request] = {}
        self.prefill: dict[str, Request] = {}
        self.decode: dict[str, Request] = {}
        self.suspects: dict[Role, dict[str, Request]] = {role: {} for role in config.roles}
        self.held: dict[
            str, dict[str, Request]
        ] = {}  # lane -> its rows in flight, until its exit is confirmed
        self.preemptions = 0
        self.prefix_hit_tokens = 0  # of first admissions
        self._free_slots = list(reversed(range(config.num_slots)))
        self._residencies = count(1)

    @property
    def num_free_slots(self) -> int:
        return len(self._free_slots)

    @property
    def num_decoding(self) -> int:
        return len(self.decode) + sum(
            request.phase is RequestPhase.DECODING for request in self._under_suspicion()
        )

    @property
    def available_blocks_for_prompts(self) -> int:
        """One block is kept back per decoding request, so that admission does not cause preemption at once."""
        return self.pool.num_available - self.num_decoding

    def submit(self, request: Request) -> None:
        self.live[request.request_id] = request
        request.move_to(self.prefill)

    def need_of(self, request: Request) -> Need:
        """What admitting a waiting request would take at this moment."""
        hits = self._match(request)
        idle_hits = sum(map(self.pool.is_available, hits))
        return Need(
            blocks=self._num_blocks(request) - len(hits) + idle_hits,
            cached_tokens=len(hits) * self.config.block_tokens,
        )

    def admit(self, request: Request) -> None:
        """Give a waiting request its slot and the blocks of all its tokens, cached ones first."""
        hits = self._match(request)
        self.pool.share(hits)
        request.blocks = hits + self.pool.take(self._num_blocks(request) - len(hits))
        request.num_published = len(hits)
        request.computed = request.planned = len(hits) * self.config.block_tokens
        request.slot = self._free_slots.pop()
        request.residency = next(self._residencies)
        request.phase = RequestPhase.PREFILLING
        if request.cached_tokens is None:
            request.cached_tokens = min(request.computed, request.num_prompt)
            self.prefix_hit_tokens += request.cached_tokens

    def grow(self, request: Request) -> None:
        """Make sure that the next position has a block."""
        if request.planned >= len(request.blocks) * self.config.block_tokens:
            request.blocks += self.pool.take(1)

    def publish(self, request: Request) -> None:
        """Offer the blocks that completed steps have filled to later prompts."""
        full = request.computed // self.config.block_tokens
        if full == request.num_published or not self.config.prefix_cache:
            return
        extend_hashes(request.hashes, request.tokens, self.config.block_tokens)
        for index in range(request.num_published, full):
            self.pool.publish(request.hashes[index], request.blocks[index])
        request.num_published = full

    def preempt(self, request: Request) -> None:
        """Take back everything; it is prefilled again from its tokens, generated ones included."""
        self._release(request)
        request.phase = RequestPhase.WAITING
        self.preemptions += 1
        self.requeue(request)

    def finish(self, request: Request) -> None:
        """Results of steps in flight for it are dropped from here on."""
        self._release(request)
        request.phase = RequestPhase.FINISHED
        del request.queue[request.request_id]
        del self.live[request.request_id]

    def hold(self, request: Request, lane_id: str) -> None:
        """Suspend a request whose lane was lost with a step of it in flight. It keeps its slot and blocks."""
        request.rewind()
        request.suspect = True
        request.move_to(self.held.setdefault(lane_id, {}))

    def unhold(self, lane_id: str) -> None:
        for request in list(self.held.get(lane_id, {}).values()):
            self.requeue(request)
        self.held.pop(lane_id, None)

    def requeue(self, request: Request) -> None:
        """Put a request where its phase and its standing say."""
        decoding = request.phase is RequestPhase.DECODING
        if request.suspect:
            role = Role.DECODE if decoding else Role.PREFILL
            request.move_to(self.suspects[Role.MIXED if Role.MIXED in self.suspects else role])
        else:
            request.move_to(self.decode if decoding else self.prefill)

    def _match(self, request: Request) -> list[int]:
        if not self.config.prefix_cache:
            return []
        extend_hashes(request.hashes, request.tokens, self.config.block_tokens)
        # The last token is always computed: its logits are what a prompt is prefilled for.
        return self.pool.match(request.hashes, (len(request.tokens) - 1) // self.config.block_tokens)

    def _num_blocks(self, request: Request) -> int:
        return -(-len(request.tokens) // self.config.block_tokens)

    def _release(self, request: Request) -> None:
        if request.residency == 0:
            return
        fence = Fence(lane=request.lane, epoch=request.last_epoch) if request.lane is not None else None
        self.pool.release(request.blocks, fence)
        self._free_slots.append(request.slot)
        request.blocks = []
        request.slot = -1
        request.residency = request.computed = request.planned = request.pending = request.num_published = 0
        request.lane = None

    def _under_suspicion(self) -> Iterator[Request]:
        for queue in (*self.suspects.values(), *self.held.values()):
            yield from queue.values()

    def check_integrity(self) -> None:
        references = [0] * self.config.num_blocks
        slots = list(self._free_slots)
        for request in self.live.values():
            assert request.queue.get(request.request_id) is request, f"{request.request_id} is in no queue"
            _check_request(request, self.config)
            for block in request.blocks:
                references[block] += 1
            slots += [request.slot] * (request.residency > 0)
        assert sorted(slots) == list(range(self.config.num_slots)), "a slot is lost or owned twice"
        queued = len(self.prefill) + len(self.decode) + sum(1 for _ in self._under_suspicion())
        assert queued == len(self.live), "a request is in two queues, or a finished one in some"
        self.pool.check_integrity(references)


def _check_request(request: Request, config: CoordinatorConfig) -> None:
    name = request.request_id
    assert (request.residency > 0) == (request.phase is not RequestPhase.WAITING), name
    assert 0 <= request.computed <= request.planned <= len(request.blocks) * config.block_tokens, name
    assert request.num_published <= request.computed // config.block_tokens, name
    assert request.num_generated + request.pending <= request.max_tokens, f"{name} overruns max_tokens"
    if request.phase is RequestPhase.DECODING:
        assert request.planned == len(request.tokens) + request.pending - 1, name
