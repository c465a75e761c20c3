"""`kubectl semipd COMMAND`: picks the command's module, imports that one alone, and turns errors into exit codes.

0: done. 1: it could not be done; stderr says what and why in one line. 2: the command line is wrong. 130: Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from types import ModuleType

from semipd_core.errors import InvalidSpec, SemipdError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Its module has `register(parser)`, which adds its options, and `run(args) -> int`."""

    name: str
    summary: str

    @property
    def module(self) -> str:
        return f"semipd_kubectl.commands.{self.name}"


COMMANDS = (
    Command(name="status", summary="services, their pods and engines, with what blocks them"),
    Command(name="top", summary="live attainment, latencies, queues and shares of the fleet"),
    Command(name="explain", summary="why the split of a service is what it is"),
    Command(name="advise", summary="what the loop would do, and the command that follows it"),
    Command(name="pin", summary="hold a service at one split"),
    Command(name="unpin", summary="let the loop move the split again"),
    Command(name="logs", summary="the logs of all pods of a service as one stream"),
    Command(name="doctor", summary="check the installation, and say what to do about each failure"),
)


def build_parser(chosen: Command | None) -> tuple[argparse.ArgumentParser, ModuleType | None]:
    """The parser, complete for `chosen` and with a summary for every other command."""
    parser = argparse.ArgumentParser(
        prog="kubectl semipd", description="Prefill and decode on one GPU: what the services do, and why."
    )
    parser.add_argument("--version", action="version", version=f"kubectl-semipd {version('semipd')}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    module = None
    for command in COMMANDS:
        own = subparsers.add_parser(command.name, help=command.summary, description=f"{command.summary}.")
        if command is chosen:
            module = importlib.import_module(command.module)
            module.register(own)
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
        sys.stdout.flush()
    except InvalidSpec as error:
        return _fail(str(error), EXIT_USAGE)
    except BrokenPipeError:
        # Who read has enough, `head` say; what is still in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (SemipdError, OSError) as error:
        return _fail(str(error), EXIT_FAILED)
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(EXIT_INTERRUPTED)  # at once: the end of Python would wait for requests under way
    return code


def _fail(message: str, code: int) -> int:
    print(f"kubectl semipd: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
