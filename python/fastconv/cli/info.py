"""``python -m fastconv info``: what was built, what this machine has, what is in use."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..config import show_config


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "info",
        help="what was built, what this machine has, what is in use",
        description="Print what fastconv.show_config() says.",
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    if args.json:
        print(json.dumps(show_config("dicts"), indent=2))
    else:
        show_config()
    return 0
