"""``python -m fastconv train MODEL --data DIR``: train a network by its recipe."""

from __future__ import annotations

import argparse
import os
import sys
import time
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a network on local data",
        description="Train a network by its recipe; options change parts of it.",
    )
    parser.add_argument("model", help="name of a network, such as lenet5")
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with the data set's files"
    )
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--lr", type=float, help="learning rate at the start")
    parser.add_argument("--momentum", type=float)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default: 0)")
    parser.add_argument(
        "--checkpoint", metavar="FILE", help="save the run's state here (.safetensors)"
    )
    parser.add_argument(
        "--checkpoint-seconds",
        type=float,
        default=30.0,
        help="between saves in an epoch (default: 30)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from --checkpoint where the file exists"
    )
    parser.add_argument(
        "--save", metavar="FILE", help="write the final weights here (.safetensors)"
    )
    parser.add_argument("--history", metavar="FILE", help="write one line an epoch here (.csv)")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def _load(name: str, path: str) -> Any:
    from fastconv import data

    return {"mnist": data.load_mnist, "cifar10": data.load_cifar10}[name](path)


def run(args: argparse.Namespace) -> int:
    from fastconv.models import find

    entry = find(args.model)
    recipe = entry.recipe
    if recipe is None:
        raise ValueError(f"{args.model} has no recipe for training")
    if args.resume and not args.checkpoint:
        raise ValueError("--resume needs --checkpoint FILE")
    for path in (args.save, args.checkpoint):
        _check_writable(path, ".safetensors")
    _check_writable(args.history, "")
    try:
        return _train(args, entry, recipe)
    except KeyboardInterrupt:
        hint = "; the same command with --resume continues" if args.checkpoint else ""
        print(f"\ninterrupted{hint}", file=sys.stderr)
        return 130


def _train(args: argparse.Namespace, entry: Any, recipe: Any) -> int:
    from fastconv import optim
    from fastconv.training import Checkpoint, fit

    train, test = _load(recipe.dataset, args.data)
    epochs = recipe.epochs if args.epochs is None else args.epochs
    batch_size = recipe.batch_size if args.batch_size is None else args.batch_size
    model = entry.build(seed=args.seed)
    optimizer = optim.SGD(
        model.parameters(),
        lr=recipe.lr if args.lr is None else args.lr,
        momentum=recipe.momentum if args.momentum is None else args.momentum,
        weight_decay=recipe.weight_decay if args.weight_decay is None else args.weight_decay,
    )
    began = time.monotonic()
    history = fit(
        model,
        train,
        test,
        epochs=epochs,
        batch_size=batch_size,
        optimizer=optimizer,
        augment=recipe.augment,
        schedule=optim.CosineAnnealingLR(optimizer, T_max=max(epochs, 1)),
        checkpoint=args.checkpoint and Checkpoint(args.checkpoint, args.checkpoint_seconds),
        resume=args.resume,
        seed=args.seed,
        progress=not args.quiet,
    )
    if args.save:
        model.save_weights(args.save)
    if args.history:
        history.to_csv(args.history)
    if len(history):
        accuracy = history[-1]["val_accuracy"]
        print(
            f"{args.model}: {100 * accuracy:.2f} % of {len(test):,} test images right after "
            f"{len(history)} epochs, {time.monotonic() - began:.1f} s"
        )
    return 0


def _check_writable(path: str | None, suffix: str) -> None:
    """Say before the training, not after it, that a result cannot be written."""
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not path.endswith(suffix):
        raise ValueError(f"{path}: a name in {suffix} is needed")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path}: the folder {folder} is missing or cannot be written to")
