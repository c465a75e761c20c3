"""`kubectl semipd doctor`: 1 if a check fails."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from semipd_kubectl.options import add_connection, add_output, open_connection
from semipd_kubectl.reports.doctor.findings import OPERATOR_NAMESPACE

if TYPE_CHECKING:
    from semipd_kubectl.api.connection import Connection


def register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--operator-namespace",
        metavar="NAMESPACE",
        default=OPERATOR_NAMESPACE,
        help=f"where the operator runs (default: {OPERATOR_NAMESPACE})",
    )
    add_output(parser)
    add_connection(parser, everywhere=True)


def run(args: argparse.Namespace) -> int:
    with open_connection(args) as api:
        return _run(api, args)


def _run(api: Connection, args: argparse.Namespace) -> int:
    from semipd_kubectl.draw.doctor import draw_doctor  # noqa: PLC0415
    from semipd_kubectl.draw.output import print_json, print_lines  # noqa: PLC0415
    from semipd_kubectl.observe.installation import observe_installation  # noqa: PLC0415
    from semipd_kubectl.reports.doctor.report import build_doctor  # noqa: PLC0415

    namespace = None if args.all_namespaces else api.namespace
    report = build_doctor(observe_installation(api, namespace, args.operator_namespace))
    if args.output == "json":
        print_json(report)
    else:
        print_lines(draw_doctor(report))
    return 0 if report.healthy else 1
