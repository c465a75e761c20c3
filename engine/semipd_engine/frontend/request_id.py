"""The ID by which one request is known in headers and in log lines, from the proxy to the lanes."""

from __future__ import annotations

import re
import uuid

_ACCEPTED_ID = re.compile(r"[\x21-\x7e]{1,128}")


def choose_request_id(header: str | None) -> str:
    """The client's, if it can stand in a header and in a log line; else a new one."""
    if header is not None and _ACCEPTED_ID.fullmatch(header):
        return header
    return uuid.uuid4().hex
