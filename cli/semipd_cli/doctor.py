"""`semipd doctor`: the facts of this machine, and what they mean for semipd."""

from __future__ import annotations

import argparse

import msgspec

from semipd_cli.machine import checks, facts, lines
from semipd_cli.machine.checks import MachineReport

EXIT_WELL, EXIT_UNFIT, EXIT_NO_GPU = 0, 1, 3
EPILOG = (
    f"exit code: {EXIT_WELL} if no check fails, {EXIT_UNFIT} if one does, "
    f"{EXIT_NO_GPU} if there is no GPU (semipd then serves on the CPU)"
)


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "doctor", help="look at this machine's GPUs, driver and MPS", epilog=EPILOG
    )
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")


def run(args: argparse.Namespace) -> int:
    report = checks.build_report(facts.observe())
    if args.output == "json":
        print(msgspec.json.format(msgspec.json.encode(report)).decode())
    else:
        print("\n".join(lines.render(report)))
    return exit_code(report)


def exit_code(report: MachineReport) -> int:
    if not report.has_gpu:
        return EXIT_NO_GPU
    return EXIT_WELL if report.healthy else EXIT_UNFIT
