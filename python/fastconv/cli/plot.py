"""``python -m fastconv plot RUN... --output FILE``: curves of training runs."""

from __future__ import annotations

import argparse
import os
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "plot",
        help="draw the curves of training runs",
        description="Draw loss, error and learning rate of one or more runs over their epochs. "
        "Needs matplotlib.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="what `train` wrote by --history (.csv) or, of a run that goes on, by --checkpoint "
        "(.safetensors); NAME=FILE sets the name in the legend",
    )
    parser.add_argument(
        "--output", required=True, metavar="FILE", help="picture to write (.png, .svg, .pdf)"
    )
    parser.add_argument("--title", default="")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from fastconv.plotting import plot_histories

    histories: dict[str, Any] = {}
    for text in args.runs:
        given, _, path = text.rpartition("=")
        name = given or os.path.splitext(os.path.basename(path))[0]
        if name in histories:
            raise ValueError(f"plot: two runs are called {name!r}; NAME=FILE sets another name")
        histories[name] = _read(path)
    plot_histories(histories, args.output, title=args.title)
    print(args.output)
    return 0


def _read(path: str) -> Any:
    from fastconv.history import History
    from fastconv.training_run import read_history

    return read_history(path) if path.endswith(".safetensors") else History.from_csv(path)
