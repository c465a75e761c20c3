"""Writes of one object each: one that is refused keeps no other from being written, and the service's status says so."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass

import httpx2
from lightkube import ApiError

from semipd_core.api.conditions import Condition, ConditionStatus, ConditionType
from semipd_operator.apply.applier import CONFLICT, FieldOwned, NameTaken
from semipd_operator.plan.conditions import StatusReason

BUSY = (429, 503)
MAX_MESSAGE = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    what: str  # kind and name
    error: FieldOwned | NameTaken | httpx2.HTTPStatusError

    @property
    def is_left(self) -> bool:
        """To somebody else: it is not tried again before there is news."""
        return isinstance(self.error, FieldOwned | NameTaken)

    @property
    def is_name_taken(self) -> bool:
        return isinstance(self.error, NameTaken)

    @property
    def is_lost_race(self) -> bool:
        """Against another write: gone with the next attempt."""
        return isinstance(self.error, httpx2.HTTPStatusError) and code_of(self.error) == CONFLICT

    @property
    def reason(self) -> StatusReason:
        if isinstance(self.error, FieldOwned):
            return StatusReason.FIELD_OWNED
        return StatusReason.NAME_TAKEN if self.is_name_taken else StatusReason.CHILD_REFUSED

    @property
    def words(self) -> str:
        if isinstance(self.error, httpx2.HTTPStatusError):
            return f"{self.what}: {code_of(self.error)}: {self.error}"
        return str(self.error)


async def attempt(what: str, write: Awaitable[object]) -> Failure | None:
    """None: it went well. Raises: what is no matter of this object alone: Fenced, a server that is busy, httpx2.HTTPError."""
    try:
        await write
    except (FieldOwned, NameTaken) as error:
        return Failure(what=what, error=error)
    except httpx2.HTTPStatusError as error:  # of a kind that is gone the answer is no Status, so no ApiError
        if code_of(error) in BUSY:
            raise
        return Failure(what=what, error=error)
    return None


def code_of(error: httpx2.HTTPStatusError) -> int:
    if isinstance(error, ApiError) and error.status.code is not None:
        return error.status.code
    return error.response.status_code


def degraded_by(failures: Sequence[Failure], generation: int | None) -> Condition | None:
    """Names that are taken before refusals, and these before fields that are left to others. None: nothing lasts."""
    lasting = [failure for failure in failures if not failure.is_lost_race]
    if not lasting:
        return None
    order = (StatusReason.NAME_TAKEN, StatusReason.CHILD_REFUSED, StatusReason.FIELD_OWNED)
    reason = min((failure.reason for failure in lasting), key=order.index)
    words = sorted(failure.words for failure in lasting if failure.reason is reason)
    return Condition(
        type=ConditionType.DEGRADED,
        status=ConditionStatus.TRUE,
        reason=reason,
        message="; ".join(words)[:MAX_MESSAGE],
        observed_generation=generation,
    )
