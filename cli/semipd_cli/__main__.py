"""`semipd COMMAND`: picks the command's module, imports that one alone, and turns errors into exit codes.

0: done. 1: it could not be done. 2: the user must change something; stderr says which field, what was given, what is allowed.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType

from semipd_core.errors import InvalidSpec, SemipdError

EXIT_FAILED = 1
EXIT_USER = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """`module` has `register(subparsers)`, which adds the parser `name`, and `run(args) -> int`."""

    name: str
    module: str
    summary: str


COMMANDS = (
    Command(name="up", module="semipd_cli.up", summary="serve a SemiPDService on this machine"),
    Command(
        name="status", module="semipd_cli.status", summary="show engines, processes, shares and decisions"
    ),
    Command(
        name="set-partition",
        module="semipd_cli.set_partition",
        summary="wish for a split by hand, or let go of it",
    ),
    Command(name="down", module="semipd_cli.down", summary="drain and stop a running service"),
    Command(
        name="replay", module="semipd_cli.replay", summary="replay a trace of requests against a service"
    ),
    Command(name="demo", module="semipd_cli.demo", summary="serve, replay a trace and report"),
    Command(name="pod", module="semipd_cli.pod", summary="serve inside an engine pod"),
    Command(name="doctor", module="semipd_cli.doctor", summary="look at this machine's GPUs, driver and MPS"),
    Command(name="profile", module="semipd_cli.profile", summary="measure step times on this device"),
    Command(
        name="simulate", module="semipd_cli.simulate", summary="try splits on a profile, without a device"
    ),
    Command(name="bench", module="semipd_cli.bench", summary="measure shares, switches and peers"),
)


def build_parser(chosen: Command | None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """The parser, complete for `chosen` and with a summary for every other command."""
    parser = argparse.ArgumentParser(
        prog="semipd", description="Prefill and decode on one device, each on its own share."
    )
    parser.add_argument("--version", action="version", version=f"semipd {version('semipd')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    module = None
    for command in COMMANDS:
        if command is chosen:
            module = importlib.import_module(command.module)
            module.register(subparsers)
        else:
            subparsers.add_parser(command.name, help=command.summary)
    return parser, module


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = next((argument for argument in arguments if not argument.startswith("-")), None)
    chosen = next((command for command in COMMANDS if command.name == name), None)
    try:
        parser, module = build_parser(chosen)
        args = parser.parse_args(arguments)
        if module is None:
            parser.error("a COMMAND is needed")
        code: int = module.run(args)
    except InvalidSpec as error:
        return _fail(str(error), EXIT_USER)
    except (SemipdError, OSError) as error:
        return _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return code


def _fail(message: str, code: int) -> int:
    print(f"semipd: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
