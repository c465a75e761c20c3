"""How many requests of which kind the API server has answered: `apiserver_request_total`, whose labels say no client.

Who wrote is read off what was written: in this fleet each kind has one writer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

WRITING = frozenset({"POST", "PUT", "PATCH", "APPLY", "DELETE", "DELETECOLLECTION"})
OPERATOR, LEASE, AGENTS, SERVER = "operator", "operator's lease", "agents", "API server itself"

_LINE = re.compile(r"apiserver_request_total\{(?P<labels>[^}]*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')

Requests = Mapping[tuple[str, str], int]  # (verb, resource or resource/subresource): count


def parse_requests(text: str) -> Requests:
    """Of the API server's `/metrics`. Refused requests count too."""
    found: Counter[tuple[str, str]] = Counter()
    for match in _LINE.finditer(text):
        labels = dict(_LABEL.findall(match["labels"]))
        resource, subresource = labels.get("resource", ""), labels.get("subresource", "")
        what = f"{resource}/{subresource}" if subresource else resource
        found[labels.get("verb", ""), what] += int(float(match["value"]))
    return found


def parse_cpu_s(text: str) -> float:
    """What the API server itself has used since its start."""
    found = re.search(r"^process_cpu_seconds_total (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def writes_between(before: Requests, after: Requests) -> dict[str, int]:
    """Writes by what was written, most first."""
    found: Counter[str] = Counter()
    for (verb, what), count in after.items():
        if verb in WRITING:
            found[what] += count - before.get((verb, what), 0)
    return {what: count for what, count in found.most_common() if count}


def writer_of(what: str) -> str:
    """While nobody changes a service, and no pod comes or goes."""
    if what == "semipdpartitions/status":
        return AGENTS
    if what == "leases":
        return LEASE
    if what.startswith(
        ("apiservices", "flowschemas", "prioritylevelconfigurations", "serviceaccounts/token")
    ):
        return SERVER
    return OPERATOR


def by_writer(writes: Mapping[str, int]) -> dict[str, int]:
    found: Counter[str] = Counter()
    for what, count in writes.items():
        found[writer_of(what)] += count
    return dict(found)
