"""`kubectl semipd status [NAME]`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from semipd_core.errors import InvalidSpec
from semipd_kubectl.options import add_connection, add_output, open_connection
from semipd_kubectl.reports.status import StatusReport, build_service, build_status

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="of a service (default: all in the namespace)"
    )
    add_output(parser)
    add_connection(parser, everywhere=True)


def run(args: argparse.Namespace) -> int:
    if args.name is not None and args.all_namespaces:
        raise InvalidSpec("--all-namespaces", args.name, "without a NAME, or a NAME with --namespace")
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.draw.output import print_json, print_lines  # noqa: PLC0415
    from semipd_kubectl.draw.status import draw_status  # noqa: PLC0415

    report = _observe(api, args)
    if args.output == "json":
        print_json(report)
    else:
        print_lines(draw_status(report, api.now_s()))
    return 0


def _observe(api: Connection, args: argparse.Namespace) -> StatusReport:
    from semipd_kubectl.observe.fleet import observe_fleet, observe_service  # noqa: PLC0415

    if args.name is not None:
        return StatusReport(
            services=[build_service(observe_service(api, api.namespace, args.name))], unreadable=[]
        )
    return build_status(observe_fleet(api, None if args.all_namespaces else api.namespace))
