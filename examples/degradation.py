"""The degradation of plain nets and its cure: error over epochs of plain and residual nets.

A deeper plain net has the larger training error, which is no overfitting, though a deeper net can
represent all that a shallower one can; identity shortcuts, which have no parameters, reverse it (He
et al. 2015, "Deep residual learning for image recognition", figures 1 and 6). This trains the
paper's CIFAR-10 nets one after another, on a part of the data and for fewer epochs:

    python examples/degradation.py --data cifar-10-batches-bin --subset 5000 --epochs 20

The recipe is the paper's (SGD, momentum 0.9, weight decay 1e-4, crops and mirrored images, the rate
divided by 10 at 1/2 and 3/4 of the epochs) but for the rate at the start, 0.01, and the batch, 64:
at the paper's 0.1 the plain net of 56 layers stays at chance for the few steps that this takes.

Each net's curve is kept as a CSV and its state as a checkpoint in --output, so that the same
command goes on where it was stopped, and adds what is missing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastconv as fc
from fastconv.history import History
from fastconv.models import find
from fastconv.models.recipes import Recipe, find_recipe

try:
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
except ImportError as error:
    sys.exit(f"degradation: the picture needs matplotlib: pip install matplotlib ({error})")

NETWORKS = ("cifar_plain20", "cifar_plain56", "cifar_resnet56")
# Okabe and Ito's, told apart by every kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    made.add_argument(
        "--data", type=Path, required=True, help="CIFAR-10: a folder with its batches, or a tar"
    )
    made.add_argument("--networks", nargs="+", default=NETWORKS, metavar="NAME")
    made.add_argument("--epochs", type=int, default=20)
    made.add_argument("--subset", type=int, default=5000, help="training images (default: 5000)")
    made.add_argument("--test-subset", type=int, default=1000, help="test images (default: 1000)")
    made.add_argument("--batch-size", type=int, default=64)
    made.add_argument("--lr", type=float, default=0.01, help="at the start (default: 0.01)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--output", type=Path, default=Path("degradation"), help="folder to write")
    return made


def train(name: str, options: argparse.Namespace, data: tuple[Any, Any]) -> History:
    """Train one net, or go on; its curve, also in ``output/name.csv``."""
    recipe: Recipe = replace(
        find_recipe(name), epochs=options.epochs, batch_size=options.batch_size, lr=options.lr
    )
    model = find(name).build(seed=options.seed)
    optimizer = fc.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
    )
    history = fc.fit(
        model,
        *data,
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        optimizer=optimizer,
        augment=recipe.augment,
        schedule=recipe.make_schedule(optimizer, recipe.epochs),
        checkpoint=options.output / f"{name}.safetensors",
        resume=True,
        seed=options.seed,
    )
    history.to_csv(options.output / f"{name}.csv")
    return history


def report(histories: dict[str, History]) -> str:
    """A line a net: errors in percent at the end, the mean of the last three epochs."""
    lines = [f"{'':16}{'training error':>16}{'test error':>12}"]
    for name, history in histories.items():
        last = list(history)[-3:]
        errors = [
            100 * (1 - sum(row[column] for row in last) / len(last))
            for column in ("accuracy", "val_accuracy")
        ]
        lines.append(f"{name:16}{errors[0]:14.1f} %{errors[1]:10.1f} %")
    return "\n".join(lines)


def draw(histories: dict[str, History], title: str) -> Figure:
    """As figure 6 of the paper: training error dashed, test error solid."""
    names = {"plain nets": [n for n in histories if "plain" in n]}
    names["residual nets"] = [name for name in histories if "plain" not in name]
    kinds = [kind for kind, members in names.items() if members]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    colors = iter(COLORS * len(histories))
    for axes, kind in zip(panels, kinds, strict=True):
        for name in names[kind]:
            color = next(colors)
            for column, style in (("accuracy", "--"), ("val_accuracy", "-")):
                errors = [100 * (1 - value) for value in histories[name][column]]
                label = name.removeprefix("cifar_") + (" training" if style == "--" else " test")
                axes.plot(histories[name]["epoch"], errors, style, color=color, label=label)
        axes.set(title=kind, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    panels[0].set_ylabel("error (%)")
    figure.suptitle(title, fontsize=11)
    return figure


def main() -> None:
    options = parser().parse_args()
    training, test = fc.data.load_cifar10(options.data)
    for name, whole, part in (
        ("--subset", training, options.subset),
        ("--test-subset", test, options.test_subset),
    ):
        if not 1 <= part <= len(whole):
            sys.exit(f"degradation: {name} {part}: the data hold {len(whole)} images")
    data = training.subset(slice(options.subset)), test.subset(slice(options.test_subset))
    options.output.mkdir(parents=True, exist_ok=True)
    title = f"CIFAR-10, the first {options.subset:,} training images, {options.epochs} epochs"
    histories: dict[str, History] = {}
    for name in options.networks:
        print(name, flush=True)
        histories[name] = train(name, options, data)
        draw(histories, title).savefig(options.output / "degradation.png", dpi=100)
    print(report(histories))
    print(f"picture: {options.output / 'degradation.png'}")


if __name__ == "__main__":
    try:
        main()
    except (OSError, ValueError) as error:
        sys.exit(f"degradation: {error}")
