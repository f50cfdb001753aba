"""Train AlphaGo's policy network on game records:

    python -m examples.alphago.train GAMES --cache FILE [options]

GAMES is a folder or zip archive of SGF files. They are encoded into FILE once, some games are set
apart, and the network learns the others' moves under random symmetries. Interrupted, the same
command with --resume goes on.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence

import fastconv as fc
import numpy as np

from examples.alphago.cache import Cache, build
from examples.alphago.dataset import Positions, split_games
from examples.alphago.evaluation import score, table_accuracies
from examples.alphago.records import sources


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m examples.alphago.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("games", help="folder or .zip of SGF files, or one file")
    parser.add_argument("--cache", required=True, help="encoded positions, 2.2 KB each: made once")
    parser.add_argument("--filters", type=int, default=64, help="AlphaGo: 192 (default: 64)")
    parser.add_argument(
        "--convolutions", type=int, default=7, help="before the last; AlphaGo: 12 (default: 7)"
    )
    parser.add_argument("--held-games", type=int, default=100, help="set apart (default: 100)")
    parser.add_argument("--epochs", type=int, default=20, help="of the schedule (default: 20)")
    parser.add_argument("--stop-after", type=int, help="stop after so many of them, to go on later")
    parser.add_argument("--epoch-positions", type=int, default=32768, help="(default: 32768)")
    parser.add_argument(
        "--check-positions", type=int, default=2048, help="held ones after an epoch (default: 2048)"
    )
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=0.01, help="at the start (default: 0.01)")
    parser.add_argument("--momentum", type=float, default=0.9)
    parser.add_argument("--weight-decay", type=float, default=1e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", help="save the run's state here (.safetensors)")
    parser.add_argument("--resume", action="store_true", help="go on from --checkpoint")
    parser.add_argument("--history", help="write one line an epoch here (.csv)")
    parser.add_argument("--save", help="write the weights here (.safetensors)")
    return parser.parse_args(argv)


def open_cache(games: str, path: str) -> Cache:
    """The cache at ``path``, made from ``games`` if it is not there, read once and checked."""
    if not os.path.exists(path):
        began = time.process_time()
        report = build(sources(games), path)
        seconds = time.process_time() - began
        rate = report.positions / max(seconds, 1e-9)
        print(
            f"{report.games:,} games, {report.positions:,} positions encoded in {seconds:.0f} s of "
            f"CPU time ({rate:,.0f} a second), {len(report.refused)} games left out"
        )
        for reason in report.refused[:10]:
            print(f"  left out: {reason}")
    cache = Cache(path)
    cache.verify()
    return cache


def main(argv: Sequence[str] | None = None) -> int:
    args = parse_arguments(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        hint = "; the same command with --resume goes on" if args.checkpoint else ""
        print(f"\ninterrupted{hint}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 1


def run(args: argparse.Namespace) -> int:
    cache = open_cache(args.games, args.cache)
    to_train, to_hold = split_games(cache, args.held_games, args.seed)
    train = Positions(cache, to_train, args.epoch_positions)
    held = Positions(cache, to_hold)
    some = np.random.default_rng(args.seed).permutation(len(held))[: args.check_positions]
    model = fc.models.alphago_policy(args.filters, convolutions=args.convolutions, seed=args.seed)
    optimizer = fc.optim.SGD(
        model.parameters(),
        lr=args.lr,
        momentum=args.momentum,
        weight_decay=args.weight_decay,
    )
    print(
        f"{len(to_train):,} positions to train on, {len(held):,} of {args.held_games} games held "
        f"out; {args.filters} filters, {args.convolutions} + 1 convolutions, "
        f"{model.num_parameters:,} parameters",
        flush=True,
    )
    history = fc.fit(
        model,
        train,
        held.subset(np.sort(some)),
        epochs=args.epochs if args.stop_after is None else min(args.stop_after, args.epochs),
        batch_size=args.batch_size,
        optimizer=optimizer,
        schedule=fc.optim.CosineAnnealingLR(optimizer, T_max=max(args.epochs, 1)),
        checkpoint=args.checkpoint,
        resume=args.resume,
        seed=args.seed,
    )
    if args.history:
        history.to_csv(args.history)
    if args.save:
        model.save_weights(args.save)
    result = score(model, held)
    move, answer = table_accuracies(train, held)
    minutes = sum(history["seconds"]) / 60 if len(history) else 0.0
    print(f"held-out games: the favourite is the move played in {100 * result.top1:.1f} % of "
          f"{result.positions:,} positions, among five in {100 * result.top5:.1f} %; "
          f"cross entropy {result.loss:.3f}\n"
          f"for comparison: chance {100 / 361:.1f} %, the commonest sensible move "
          f"{100 * move:.1f} %, the commonest answer to the last move {100 * answer:.1f} %\n"
          f"after {len(history) * len(train):,} positions in {minutes:.0f} minutes")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
