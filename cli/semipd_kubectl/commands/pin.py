"""`kubectl semipd pin NAME PREFILL/DECODE`."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from semipd_kubectl.draw.pin import pinned_sentence, progress_sentence
from semipd_kubectl.errors import ApiError, NotInTime
from semipd_kubectl.options import add_connection, add_output, duration, open_connection
from semipd_kubectl.reports.pin import (
    PinReport,
    build_pin,
    check_legal,
    find_refusal,
    parse_split,
    pin_patch,
)

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection
    from semipd_kubectl.reports.values import Split

POLL_S = 1.0


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a service")
    parser.add_argument("split", metavar="PREFILL/DECODE", type=parse_split, help="in percent, as 70/60")
    parser.add_argument("--wait", action="store_true", help="until every pod has been granted it")
    parser.add_argument(
        "--timeout",
        metavar="DURATION",
        type=duration("--timeout"),
        default="120s",
        help="of --wait (default: 120s)",
    )
    add_output(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Raises: InvalidSpec for a split outside the bounds; NotInTime."""
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.api.paths import SERVICES  # noqa: PLC0415
    from semipd_kubectl.draw.output import print_json  # noqa: PLC0415
    from semipd_kubectl.observe.fleet import observe_service  # noqa: PLC0415

    view = observe_service(api, api.namespace, args.name)
    check_legal(args.split, view)
    api.patch(SERVICES.path(api.namespace, args.name), pin_patch(args.split))
    report = build_pin(view, args.split, view.pin)
    if args.output == "text":
        print(pinned_sentence(report), flush=True)
    if args.wait:
        report = _wait(api, args.name, args.split, view.pin, args.timeout)
    if args.output == "json":
        print_json(report)
    elif args.wait:
        print(progress_sentence(report))
    return 0


def _wait(api: Connection, name: str, split: Split, previous: str | None, timeout_s: float) -> PinReport:
    """What has changed is said on stderr."""
    from semipd_kubectl.observe.fleet import observe_service  # noqa: PLC0415

    deadline_s, said = time.monotonic() + timeout_s, ""
    while True:
        view = observe_service(api, api.namespace, name)
        report = build_pin(view, split, previous)
        if view.pin != str(split):
            raise NotInTime(f"somebody else has changed the pin to {view.pin or 'none'}")
        if not report.waiting:
            return report
        refusal = find_refusal(view)
        if refusal is not None:
            raise ApiError(f"the operator refuses the pin: {refusal}")
        if time.monotonic() >= deadline_s:
            raise NotInTime(f"not within {timeout_s:g} s: {progress_sentence(report)}; the pin stays")
        if progress_sentence(report) != said:
            said = progress_sentence(report)
            print(said, file=sys.stderr, flush=True)
        time.sleep(POLL_S)
