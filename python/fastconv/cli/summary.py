"""``python -m fastconv summary MODEL``: the table of ``fc.summary``."""

from __future__ import annotations

import argparse
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "summary",
        help="layers, parameters, multiply-adds, memory and receptive fields of a network",
    )
    parser.add_argument("model", help="name of a network, such as lenet5")
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="images (default: 1)")
    parser.add_argument(
        "--input",
        type=_shape,
        metavar="C,H,W",
        help="shape of an image (default: the network's own)",
    )
    parser.set_defaults(run=run)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not C,H,W, such as 3,224,224")
    return tuple(int(part) for part in parts)


def run(args: argparse.Namespace) -> int:
    from fastconv import init
    from fastconv.models import find
    from fastconv.summary_table import summary

    entry = find(args.model)
    with init.skipped():
        model = entry.build()
    print(summary(model, (args.batch, *(args.input or entry.image_shape))))
    return 0
