"""Asks the zygote for lanes: one JSON line out, one in, over its unix socket."""

from __future__ import annotations

import asyncio

import msgspec

from semipd_core.errors import SemipdError
from semipd_core.partition import Role

ANSWER_TIMEOUT_S = 10.0
SHARE_ENVIRONMENT = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


class SecondRole(msgspec.Struct, frozen=True, rename="camel", kw_only=True):
    """The other lane of a process that has both roles."""

    lane_id: str
    role: Role
    percent: int


class ForkRequest(msgspec.Struct, frozen=True, rename="camel", tag_field="op", tag="fork", kw_only=True):
    lane_id: str
    role: Role
    percent: int
    config: str  # path of engine.json
    env: dict[str, str]
    log: str
    second: SecondRole | None = None


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    pid: int | None = None
    error: str | None = None


class ForkRefused(SemipdError):
    """No lane was forked."""


class ForkUnknown(SemipdError):
    """The zygote did not answer: a lane may run that nobody knows."""


async def fork(socket_path: str, request: ForkRequest) -> int:
    """The new lane's pid.

    Raises: ForkRefused, ForkUnknown.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(socket_path)
    except OSError as error:
        raise ForkRefused(f"the zygote does not listen: {error.strerror}") from error
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        line = await asyncio.wait_for(reader.readline(), ANSWER_TIMEOUT_S)
        answer = msgspec.json.decode(line, type=_Answer)
    except (OSError, TimeoutError, msgspec.MsgspecError) as error:
        raise ForkUnknown(f"the zygote did not answer: {error!r}") from error
    finally:
        writer.close()
    if answer.pid is None:
        raise ForkRefused(f"the zygote refused: {answer.error}")
    return answer.pid
