"""`semipd set-partition`: a wish by hand, pinned until `--auto` lets go of it."""

from __future__ import annotations

import argparse
import asyncio
import time
from dataclasses import dataclass

import msgspec

from semipd_agent.run_directory import RunDirectory
from semipd_cli import run_directory
from semipd_cli.agent_client import AgentClient
from semipd_cli.arguments import integer
from semipd_core.agent_config import (
    AgentConfig,
    AgentStatus,
    BandWire,
    EngineStatus,
    PartitionWire,
    WishWire,
)
from semipd_core.api.shape import NOTHING
from semipd_core.errors import InvalidSpec, NotReadyYet, SemipdError

_POLL_S = 0.1
_TIMEOUT_S = 60.0


class WishRefused(SemipdError):
    """The agent took the wish and could not fulfil it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """`refusal` is why an engine has given up; None while none has."""

    is_granted: bool
    refusal: str | None = None


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("set-partition", help="wish for a split by hand, or let go of it")
    parser.add_argument("--prefill", type=integer("--prefill", 1, 100), metavar="PERCENT")
    parser.add_argument("--decode", type=integer("--decode", 1, 100), metavar="PERCENT")
    parser.add_argument("--auto", action="store_true", help="let the control loops move the split again")
    parser.add_argument("--run-dir", metavar="DIR", help="of the service (default: the only one that runs)")


def run(args: argparse.Namespace) -> int:
    """Raises: InvalidSpec; WishRefused; NotReadyYet if the wish takes longer than a minute."""
    given = (args.prefill, args.decode)
    if args.auto and given != (None, None):
        raise InvalidSpec("--auto", "--auto with a split", "--auto alone, or --prefill and --decode")
    if not args.auto and None in given:
        missing = "--prefill" if args.prefill is None else "--decode"
        raise InvalidSpec(missing, NOTHING, "an integer 1..100 (required, unless --auto)")
    directory = run_directory.find(args.run_dir)
    return asyncio.run(_release(directory) if args.auto else _pin(directory, args.prefill, args.decode))


async def _pin(directory: RunDirectory, prefill_percent: int, decode_percent: int) -> int:
    wish = WishWire(
        target=PartitionWire(prefill_percent=prefill_percent, decode_percent=decode_percent),
        decision_id=f"manual-{time.time_ns()}",
        reason="Manual",
        message="set by hand",
        pinned=True,
    )
    async with AgentClient(str(directory.agent_socket)) as client:
        started_s = time.monotonic()
        await client.put_wish(wish)
        await _wait_until_granted(client, wish, started_s + _TIMEOUT_S)
    split = f"({prefill_percent}, {decode_percent})"
    print(
        f"{split} granted after {time.monotonic() - started_s:.2f} s; pinned until `semipd set-partition --auto`"
    )
    return 0


async def _release(directory: RunDirectory) -> int:
    config = msgspec.json.decode(directory.service_config.read_bytes(), type=AgentConfig)
    async with AgentClient(str(directory.agent_socket)) as client:
        status = await client.status()
        if status.wish is None or not status.wish.pinned:
            print("nothing is pinned; the control loops move the split")
            return 0
        await client.put_wish(released(status.wish, config, f"manual-{time.time_ns()}"))
    print("released; the control loops move the split")
    return 0


def released(wish: WishWire, config: AgentConfig, decision_id: str) -> WishWire:
    """The same target without the pin, its band as wide as the service's bounds can be around it."""
    bounds, target = config.partition, wish.target
    return WishWire(
        target=target,
        band=BandWire(
            prefill_min_percent=min(bounds.prefill_min_percent, target.prefill_percent),
            prefill_max_percent=max(bounds.prefill_max_percent, target.prefill_percent),
            decode_min_percent=min(bounds.decode_min_percent, target.decode_percent),
            decode_max_percent=max(bounds.decode_max_percent, target.decode_percent),
        ),
        decision_id=decision_id,
        reason="Released",
        message="released by hand",
        releases=wish.decision_id,
    )


async def _wait_until_granted(client: AgentClient, wish: WishWire, deadline_s: float) -> None:
    while True:
        progress = progress_of(wish, await client.status())
        if progress.refusal is not None:
            raise WishRefused(progress.refusal)
        if progress.is_granted:
            return
        if time.monotonic() > deadline_s:
            raise NotReadyYet(f"not granted within {_TIMEOUT_S:.0f} s; see `semipd status`", _POLL_S)
        await asyncio.sleep(_POLL_S)


def progress_of(wish: WishWire, status: AgentStatus) -> Progress:
    """How far all engines are with `wish`."""
    for engine in status.engines:
        switch = engine.switch
        if switch is not None and switch.decision_id == wish.decision_id and switch.outcome == "RolledBack":
            return Progress(is_granted=False, refusal=f"{engine.engine_id} rolled back: {switch.message}")
        if engine.error is not None:
            return Progress(is_granted=False, refusal=f"{engine.engine_id}: {engine.error}")
    return Progress(is_granted=all(_has_granted(wish, engine) for engine in status.engines))


def _has_granted(wish: WishWire, engine: EngineStatus) -> bool:
    """The switch for this wish is done, or none was needed."""
    switch = engine.switch
    if switch is not None and switch.outcome == "Switching":
        return False
    return engine.granted == wish.target
