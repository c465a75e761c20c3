"""`python -m semipd_images build [operator|engine]`: builds the images and prints the paths of their archives."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from semipd_images.build import TARGETS, build
from semipd_images.errors import ImagesError


def main(argv: Sequence[str] | None = None) -> int:
    arguments = _parse(argv)
    try:
        for target in [arguments.target] if arguments.target else TARGETS:
            print(build(target).path, flush=True)
    except ImagesError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="semipd_images", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("build", help="prints the path of each archive")
    command.add_argument("target", nargs="?", choices=TARGETS, help="both when left out")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
