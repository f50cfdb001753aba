"""``python -m fastconv COMMAND``: the commands are the modules of `fastconv.cli`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys

COMMANDS = ("info", "doctor", "summary", "train", "plot", "classify")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m fastconv", description="Commands of fastconv, a convolution library."
    )
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        if importlib.util.find_spec(f"fastconv.cli.{name}"):
            importlib.import_module(f"fastconv.cli.{name}").add_parser(subparsers)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (OSError, ValueError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2
    return status


if __name__ == "__main__":
    sys.exit(main())
