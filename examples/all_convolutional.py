"""Strided convolution in place of pooling: All-CNN-C and what it is compared with.

Springenberg, Dosovitskiy, Brox, Riedmiller 2014, table 2, "Striving for simplicity". Base C pools
3x3 at stride 2 after two convolutions. Strided-CNN-C leaves the pooling out and lets the
convolution before it stride; All-CNN-C puts a strided convolution where the pooling was;
ConvPool-CNN-C has All-CNN-C's depth and pools. Sizes, parameters and multiply-adds are those of
CIFAR-10 images. Narrow versions are trained here on small images, with batch norm: the paper's
networks have none, and take longer to start learning than these trainings last.
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np
from small_images import small_images, train

L = fc.layers

KINDS = ("Base-C", "Strided-CNN-C", "ConvPool-CNN-C", "All-CNN-C")
WIDTH, NARROW = 96, 12
LEARNING_RATE = 0.1


def network(
    kind: str, *, channels: int = 3, classes: int = 10, width: int = WIDTH, norm: bool = False
) -> L.Sequential:
    """One of table 2's networks, without dropout; `norm` adds batch norm."""
    layers: dict[str, L.Layer] = {}

    def convolution(before: int, after: int, size: int, stride: int = 1, pad: bool = True) -> None:
        padding = size // 2 if pad else 0
        number = sum(name.startswith("conv") for name in layers) + 1
        layers[f"conv{number}"] = L.Conv2d(before, after, size, stride=stride, padding=padding)
        if norm:
            layers[f"norm{number}"] = L.BatchNorm2d(after)
        layers[f"relu{number}"] = L.ReLU()

    for block, (before, after) in enumerate(((channels, width), (width, 2 * width)), 1):
        convolution(before, after, 3)
        convolution(after, after, 3, stride=2 if kind == "Strided-CNN-C" else 1)
        if kind == "ConvPool-CNN-C":
            convolution(after, after, 3)
        if kind == "All-CNN-C":
            convolution(after, after, 3, stride=2)
        elif kind != "Strided-CNN-C":
            layers[f"pool{block}"] = L.MaxPool2d(3, stride=2, padding=1)
    convolution(2 * width, 2 * width, 3, pad=False)
    convolution(2 * width, 2 * width, 1)
    convolution(2 * width, classes, 1)
    return L.Sequential(layers | {"average": L.GlobalAvgPool2d(), "flatten": L.Flatten()})


def compute(settings: figures.Settings) -> dict[str, Any]:
    networks = {}
    for kind in KINDS:
        table = fc.summary(network(kind), (1, 3, 32, 32))
        sizes = [row.output_shape[-1] for row in table.rows if len(row.output_shape) == 4]
        networks[kind] = {
            "parameters": table.parameters,
            "multiply_adds": table.multiply_adds,
            "sizes": [size for size, before in zip(sizes, [0, *sizes]) if size != before],
        }
    images, epochs, seeds = (1000, 1, 1) if settings.quick else (12000, 3, 3)
    data, test, name = small_images(settings, images)
    accuracies: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        for kind in KINDS:
            with fc.init.seeded(seed):
                model = network(
                    kind, channels=1, classes=len(data.classes), width=NARROW, norm=True
                )
            right = train(model, data, test, epochs=epochs, lr=LEARNING_RATE, seed=seed)
            accuracies[kind].append(right)
    return {
        "networks": networks,
        "accuracies": accuracies,
        "trained_on": f"{len(data):,} images of {name}, {epochs} epochs, {seeds} seeds",
    }


def report(found: dict[str, Any]) -> str:
    lines = ["on 32x32x3 images"]
    for kind, row in found["networks"].items():
        sizes = " -> ".join(f"{size}x{size}" for size in row["sizes"])
        lines.append(
            f"  {kind:15} {row['parameters']:9,} parameters, "
            f"{row['multiply_adds'] / 1e6:5.1f} M multiply-adds, maps {sizes}"
        )
    lines.append(f"with {NARROW} filters in place of {WIDTH}, {found['trained_on']}")
    for kind, values in found["accuracies"].items():
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        lines.append(f"  {kind:15} {100 * float(np.mean(values)):.2f} % of test images ({each})")
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 3.9)
    size, cost, score = figure.subplots(1, 3, sharey=True)
    places = np.arange(len(KINDS))[::-1]
    colors = (figures.GREY, figures.ORANGE, figures.SKY, figures.BLUE)
    for axes, key, unit, title in (
        (size, "parameters", 1e6, "million parameters"),
        (cost, "multiply_adds", 1e6, "million multiply-adds, 32x32"),
    ):
        values = [found["networks"][kind][key] / unit for kind in KINDS]
        bars = axes.barh(places, values, color=colors, height=0.6)
        axes.bar_label(bars, [f"{v:.2f}" if v < 10 else f"{v:.0f}" for v in values], padding=3)
        axes.set(title=title)
        axes.margins(x=0.2)
    size.set_yticks(places, KINDS)
    for place, kind, color in zip(places, KINDS, colors):
        values = 100 * np.array(found["accuracies"][kind])
        score.plot(values, np.full(len(values), place), "o", color=color, ms=8, alpha=0.8)
        score.plot([values.mean()] * 2, [place - 0.25, place + 0.25], color=figures.BLACK, lw=2)
    score.set(title="test accuracy, %, narrow versions\n(dots: seeds, line: mean)")
    score.locator_params(axis="x", nbins=4)
    score.grid(axis="x")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
