"""``python -m fastconv train MODEL --data DIR``: train a network by its recipe."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import fields, replace
from typing import Any


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "train",
        help="train a network on local data",
        description="Train a network by its recipe; options change parts of it.",
    )
    parser.add_argument("model", help="name of a network, such as lenet5 or cifar_resnet20")
    parser.add_argument(
        "--data",
        required=True,
        metavar="DIR",
        help="folder (or archive) with the data set's files; or folders DIR/train and DIR/val of "
        "your own images, one folder a class",
    )
    _add_recipe_options(parser)
    parser.add_argument(
        "--subset", type=int, metavar="N", help="train on the first N training images"
    )
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
    parser.add_argument(
        "--plot", metavar="FILE", help="draw loss, error and rate here (.png, .svg, .pdf)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(run=run)


def _add_recipe_options(parser: argparse.ArgumentParser) -> None:
    """Options that change fields of the recipe, under the fields' names."""
    from fastconv.models.recipes import SCHEDULES

    group = parser.add_argument_group("in place of the recipe's")
    group.add_argument("--epochs", type=int)
    group.add_argument("--batch-size", type=int)
    group.add_argument("--lr", type=float, help="learning rate at the start")
    group.add_argument("--momentum", type=float)
    group.add_argument("--weight-decay", type=float)
    group.add_argument(
        "--schedule",
        choices=SCHEDULES,
        help="of the learning rate: half a cosine; divided by 10 at fixed epochs, or where the "
        "accuracy on the test set has not risen for some epochs; or constant",
    )
    group.add_argument(
        "--label-smoothing",
        type=float,
        metavar="SHARE",
        help="share of the target spread over all classes, such as 0.1",
    )


def _load(name: str, path: str, image_shape: tuple[int, int, int]) -> Any:
    """(training, test) sets: the recipe's, or folders of images, which any network can take."""
    from fastconv import data

    if name == "images" or os.path.isdir(os.path.join(path, "train")):
        mode = "L" if image_shape[0] == 1 else "RGB"
        return data.load_image_splits(path, size=image_shape[1:], mode=mode)
    return {"mnist": data.load_mnist, "cifar10": data.load_cifar10}[name](path)


def run(args: argparse.Namespace) -> int:
    from fastconv import plotting
    from fastconv.models import find
    from fastconv.models.recipes import find_recipe

    entry = find(args.model)
    recipe = find_recipe(args.model)
    given = {field.name: getattr(args, field.name, None) for field in fields(recipe)}
    recipe = replace(recipe, **{name: v for name, v in given.items() if v is not None})
    if args.resume and not args.checkpoint:
        raise ValueError("--resume needs --checkpoint FILE")
    for path in (args.save, args.checkpoint):
        _check_writable(path, ".safetensors")
    for path in (args.history, args.plot):
        _check_writable(path, "")
    if args.plot:
        plotting.check(args.plot)
    try:
        return _train(args, entry, recipe)
    except KeyboardInterrupt:
        hint = "; the same command with --resume continues" if args.checkpoint else ""
        print(f"\ninterrupted{hint}", file=sys.stderr)
        return 130


def _train(args: argparse.Namespace, entry: Any, recipe: Any) -> int:
    from fastconv import layers, optim, plotting
    from fastconv.training import Checkpoint, fit

    train, test = _load(recipe.dataset, args.data, entry.image_shape)
    train = _subset(train, args.subset)
    model = entry.build(seed=args.seed, num_classes=len(train.classes) or 10, **recipe.network)
    optimizer = optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    began = time.monotonic()
    history = fit(
        model,
        train,
        test,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=optimizer,
        loss=layers.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        augment=recipe.augment,
        schedule=recipe.make_schedule(optimizer, recipe.epochs),
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
        if args.plot:
            plotting.plot_histories({args.model: history}, args.plot)
    return 0


def _subset(train: Any, count: int | None) -> Any:
    if count is None:
        return train
    if not 1 <= count <= len(train):
        raise ValueError(f"--subset {count}: the training set has {len(train)} images")
    return train.subset(slice(count))


def _check_writable(path: str | None, suffix: str) -> None:
    """Say before the training, not after it, that a result cannot be written."""
    if path is None:
        return
    folder = os.path.dirname(os.path.abspath(path))
    if not path.endswith(suffix):
        raise ValueError(f"{path}: a name in {suffix} is needed")
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{path}: the folder {folder} is missing or cannot be written to")
