"""`kubectl semipd advise NAME`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from semipd_kubectl.options import add_connection, add_output, open_connection

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="of a service")
    add_output(parser)
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.draw.advise import draw_advice  # noqa: PLC0415
    from semipd_kubectl.draw.output import print_json, print_lines  # noqa: PLC0415
    from semipd_kubectl.observe.fleet import observe_service  # noqa: PLC0415
    from semipd_kubectl.reports.advise import build_advice  # noqa: PLC0415

    report = build_advice(observe_service(api, api.namespace, args.name))
    if args.output == "json":
        print_json(report)
    else:
        print_lines(draw_advice(report, api.now_s()))
    return 0
