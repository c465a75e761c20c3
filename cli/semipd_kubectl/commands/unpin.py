"""`kubectl semipd unpin NAME`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from semipd_kubectl.draw.pin import pinned_sentence
from semipd_kubectl.options import add_connection, add_output, open_connection
from semipd_kubectl.reports.pin import build_pin, pin_patch

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a service")
    add_output(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """One that is not pinned stays as it is, and that is no error."""
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.api.paths import SERVICES  # noqa: PLC0415
    from semipd_kubectl.draw.output import print_json  # noqa: PLC0415
    from semipd_kubectl.observe.fleet import observe_service  # noqa: PLC0415

    view = observe_service(api, api.namespace, args.name)
    if view.pin is not None:
        api.patch(SERVICES.path(api.namespace, args.name), pin_patch(None))
    report = build_pin(view, None, view.pin)
    if args.output == "json":
        print_json(report)
    else:
        print(pinned_sentence(report))
    return 0
