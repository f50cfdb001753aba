"""Subcommands of ``python -m fastconv``: each module has ``add_parser(subparsers)`` and
``run(args)``."""
