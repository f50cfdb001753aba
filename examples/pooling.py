"""Max against average pooling: what they keep, which pixels learn, and which scores better here.

The lecture: max pooling "is generally better than average pooling because it preserves the most
prominent features". Whether it scores better is a matter of trial, so LeNet-5 is trained with both,
from several seeds. The 4x4 example is the lecture's own.
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np
from small_images import small_images, train

SLICE = ((1, 1, 2, 4), (5, 6, 7, 8), (3, 2, 1, 0), (1, 2, 3, 4))
KINDS = ("max", "average")
# Of 0.003, 0.01, 0.02 and 0.03 the best for max pooling; average pooling gains from 0.03 as well.
LEARNING_RATE = 0.02


def pool_slice() -> dict[str, Any]:
    """The lecture's 4x4 slice through 2x2 windows at stride 2, and the gradient of the sum."""
    x = np.array(SLICE, np.float32)[None, None]
    largest, indices = fc.max_pool2d(x, 2, return_indices=True)
    mean = fc.avg_pool2d(x, 2)
    ones = np.ones_like(largest)
    return {
        "max": largest[0, 0],
        "average": mean[0, 0],
        "grad_max": fc.max_pool2d_backward(ones, indices, x.shape, 2)[0, 0],
        "grad_average": fc.avg_pool2d_backward(ones, x.shape, 2)[0, 0],
    }


def edge_map() -> Any:
    """(1, 1, 96, 96): ReLU of a vertical-edge filter on the photo."""
    x = figures.photo(98)
    column = np.array([1, 2, 1], np.float32)
    weight = np.outer(column, np.array([-1, 0, 1], np.float32))[None, None].repeat(3, axis=1)
    return fc.conv2d(x, np.ascontiguousarray(weight), activation="relu")


def lenet5(kind: str, classes: int, seed: int) -> fc.layers.Layer:
    """LeNet-5 with ReLU and one of the two poolings."""
    model = fc.models.lenet5(num_classes=classes, seed=seed)
    if kind == "average":
        model.s2, model.s4 = fc.layers.AvgPool2d(2), fc.layers.AvgPool2d(2)
    return model


def compute(settings: figures.Settings) -> dict[str, Any]:
    maps = edge_map()
    images, epochs, seeds = (1500, 1, 1) if settings.quick else (12000, 3, 5)
    data, test, name = small_images(settings, images)
    accuracies: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for seed in range(seeds):
        for kind in KINDS:
            model = lenet5(kind, len(data.classes), seed)
            right = train(model, data, test, epochs=epochs, lr=LEARNING_RATE, seed=seed)
            accuracies[kind].append(right)
    return {
        "slice": pool_slice(),
        "maps": {
            "map": maps[0, 0],
            "max": fc.max_pool2d(maps, 6)[0, 0],
            "average": fc.avg_pool2d(maps, 6)[0, 0],
        },
        "accuracies": accuracies,
        "trained_on": f"{len(data):,} images of {name}, {epochs} epochs, {seeds} seeds",
        "tested_on": len(test),
    }


def report(found: dict[str, Any]) -> str:
    lines = ["the lecture's 4x4 slice, 2x2 windows, stride 2"]
    for kind in KINDS:
        values, grad = found["slice"][kind].tolist(), found["slice"][f"grad_{kind}"]
        lines.append(
            f"  {kind:8} {values}, the gradient reaches {int((grad != 0).sum())} of 16 values"
        )
    lines.append(f"LeNet-5 (ReLU) with either, {found['trained_on']}")
    for kind, values in found["accuracies"].items():
        each = ", ".join(f"{100 * value:.2f}" for value in values)
        mean = 100 * float(np.mean(values))
        lines.append(f"  {kind:8} {mean:.2f} % of {found['tested_on']:,} test images ({each})")
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 6)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1, 1.15))
    panels = (
        (np.array(SLICE), "input"),
        (found["slice"]["max"], "max"),
        (found["slice"]["average"], "average"),
        (found["slice"]["grad_max"], "gradient of max"),
        (found["slice"]["grad_average"], "gradient of average"),
    )
    for axes, (values, title) in zip(upper.subplots(1, 5), panels):
        numbers(axes, values, "Oranges" if "gradient" in title else "Blues")
        figures.bare(axes, title)
    maps, scores = lower.subfigures(1, 2, width_ratios=(1.75, 1))
    titles = {
        "map": "edges in a photo, 96x96",
        "max": "max 6x6",
        "average": "average 6x6, same scale",
    }
    limit = float(found["maps"]["map"].max())
    for axes, (kind, title) in zip(maps.subplots(1, 3), titles.items()):
        axes.imshow(found["maps"][kind], cmap="gray", vmin=0, vmax=limit)
        figures.bare(axes, title)
    axes = scores.subplots()
    for place, (kind, color) in enumerate(zip(KINDS, (figures.BLUE, figures.ORANGE))):
        values = 100 * np.array(found["accuracies"][kind])
        axes.plot(np.full(len(values), place), values, "o", color=color, ms=8, alpha=0.7)
        axes.plot([place - 0.2, place + 0.2], [values.mean()] * 2, color=figures.BLACK, lw=2)
    axes.set_xticks((0, 1), KINDS)
    axes.set(xlim=(-0.6, 1.6), ylabel="test accuracy, %")
    axes.set_title("LeNet-5 trained with either\n(dots: seeds, line: mean)")
    axes.grid(axis="y")
    return figure


def numbers(axes: Any, values: Any, cmap: str) -> None:
    """The values of a small matrix, written into its cells; frames around 2x2 windows."""
    axes.imshow(values, cmap=cmap, vmin=0, vmax=2.2 * values.max())
    for (row, col), value in np.ndenumerate(values):
        axes.text(col, row, f"{value:g}", ha="center", va="center", fontsize=12)
    step = 2 if len(values) == 4 else 1
    for edge in np.arange(-0.5, len(values), step):
        axes.axhline(edge, color=figures.BLACK, lw=1)
        axes.axvline(edge, color=figures.BLACK, lw=1)


if __name__ == "__main__":
    figures.main(compute, report, draw)
