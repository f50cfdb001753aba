"""``python -m benchmarks``: options first, then the environment, then what reads it at import."""

from __future__ import annotations

import sys

from .options import parse, prepare_environment
from .processors import default_threads


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; the exit code."""
    options = parse(arguments)
    options.threads = options.threads or default_threads()
    prepare_environment(options.threads)
    from .cli import run

    return run(options)


if __name__ == "__main__":
    sys.exit(main())
