"""`semipd status`: what runs, with which shares, and why."""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Iterator, Sequence

import msgspec

from semipd_agent.processes.identity import is_alive
from semipd_cli import run_directory
from semipd_cli.agent_client import AgentClient
from semipd_core.agent_config import AgentStatus, EngineStatus, PartitionWire, ProcessStatus, SwitchStatus


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser("status", help="show engines, processes, shares and decisions")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--run-dir", metavar="DIR", help="of the service (default: the only one that runs)")


def run(args: argparse.Namespace) -> int:
    directory = run_directory.find(args.run_dir)
    record = run_directory.read_record(directory)
    up_pid = record.pid if record is not None and is_alive(record.identity) else None
    status = asyncio.run(_read(str(directory.agent_socket)))
    if args.output == "json":
        print(
            msgspec.json.format(msgspec.json.encode(msgspec.to_builtins(status) | {"upPid": up_pid})).decode()
        )
    else:
        print("\n".join(render(status, up_pid, time.time())))
    return 0


async def _read(socket_path: str) -> AgentStatus:
    async with AgentClient(socket_path) as client:
        return await client.status()


def render(status: AgentStatus, up_pid: int | None, now_s: float) -> Iterator[str]:
    """Lines for a terminal; `now_s` is unix time."""
    state = "draining" if status.draining else "ready" if status.ready else "not ready"
    attainment = _attainment(status.attainment_permille)
    up = f"semipd up is pid {up_pid}" if up_pid else "semipd up is gone"
    yield f"{status.service}: {state} at {status.url}, SLO attainment {attainment}; {up}"
    yield ""
    yield from _columns(_process_rows(status))
    for engine in status.engines:
        if engine.error:
            yield f"{engine.engine_id}: {engine.error}"
    yield from _reasons(status, now_s)


def _process_rows(status: AgentStatus) -> Iterator[Sequence[str]]:
    yield ("ENGINE", "PHASE", "ROLE", "PID", "REQUESTED", "GRANTED", "KV", "RESTARTS")
    for process in (status.agent, *status.shared):
        yield ("-", "-", *_process_cells(process, ""))
    for engine in status.engines:
        for index, process in enumerate(engine.processes):
            head = (engine.engine_id, engine.phase) if index == 0 else ("", "")
            yield (*head, *_process_cells(process, _kv(engine) if process.role == "memory" else ""))


def _process_cells(process: ProcessStatus, kv: str) -> Sequence[str]:
    return (
        f"{process.role} (standby)" if process.standby else process.role,
        str(process.pid),
        _percent(process.requested_percent),
        _percent(process.granted_percent),
        kv,
        str(process.restarts or ""),
    )


def _reasons(status: AgentStatus, now_s: float) -> Iterator[str]:
    wish = status.wish
    if wish is not None:
        yield ""
        pinned = ", pinned by hand" if wish.pinned else ""
        yield f"wish {_split(wish.target)}{pinned}: {wish.reason}. {wish.message}".rstrip()
    if status.switches:
        yield ""
        yield "last switches"
        yield from _columns([_switch_cells(switch, now_s) for switch in status.switches[-5:]])
    if status.decisions:
        yield ""
        yield "last decisions"
        yield from (
            f"  {_age(decision.at_s, now_s)} {decision.loop} {decision.engine_id or 'all'} "
            f"{'moves to' if decision.changed else 'holds'} {_split(decision.partition)} "
            f"{decision.reason}: {decision.message}"
            for decision in status.decisions
        )


def _switch_cells(switch: SwitchStatus, now_s: float) -> Sequence[str]:
    seconds = "" if switch.seconds is None else f"{switch.seconds:.2f} s"
    move = f"{_split(switch.from_partition)} -> {_split(switch.to_partition)}"
    return (
        f"  {_age(switch.at_s, now_s)}",
        move,
        switch.outcome,
        seconds,
        f"{switch.reason}: {switch.message}",
    )


def _columns(rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> Iterator[str]:
    table = list(rows)
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _attainment(permille: int | None) -> str:
    return "unknown (idle or no data)" if permille is None else f"{permille / 10:.1f} %"


def _kv(engine: EngineStatus) -> str:
    return f"{engine.kv_blocks_used}/{engine.kv_blocks_total}"


def _percent(percent: int | None) -> str:
    return "" if percent is None else f"{percent} %"


def _split(partition: PartitionWire) -> str:
    return f"({partition.prefill_percent}, {partition.decode_percent})"


def _age(at_s: float, now_s: float) -> str:
    return f"{max(0.0, now_s - at_s):.0f} s ago"
