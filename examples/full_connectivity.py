"""Why full connectivity does not scale to images, and what a convolution saves.

The lecture's figures: a neuron that sees a whole CIFAR-10 image (32x32x3) has 3,072 weights, one
that sees a 200x200x3 image has 120,000, and a layer has many neurons. A convolution takes two
steps back from that: a neuron sees a small window (local connectivity), and all neurons of a map
have the same weights (sharing). Weights are counted here, biases left out.
"""

from __future__ import annotations

import math
from typing import Any

import fastconv as fc
import figures

SIDES = (16, 32, 64, 112, 200)
FILTERS, FILTER_SIZE = 10, 5


def compute(settings: figures.Settings) -> dict[str, Any]:
    neuron = {side: fc.layers.Linear(3 * side * side, 1).weight.size for side in SIDES}
    convolution = fc.layers.Conv2d(3, FILTERS, FILTER_SIZE, padding="same")
    window = convolution.weight.size // FILTERS  # the weights of one filter
    layers = {}
    for side in (32, 200):
        neurons = math.prod(convolution.output_shape((1, 3, side, side)))
        layers[side] = {
            "neurons": neurons,
            "full": neurons * neuron[side],
            "local": neurons * window,
            "shared": convolution.weight.size,
        }
    return {"neuron": neuron, "window": window, "layers": layers}


def report(found: dict[str, Any]) -> str:
    lines = ["weights of one fully connected neuron"]
    lines += [f"  {s:3}x{s}x3 image: {count:9,}" for s, count in found["neuron"].items()]
    lines.append(f"  a {FILTER_SIZE}x{FILTER_SIZE}x3 filter, on any image: {found['window']}")
    for side, layer in found["layers"].items():
        lines += [
            f"a layer of {layer['neurons']:,} neurons ({side}x{side}x{FILTERS}) on {side}x{side}x3",
            f"  fully connected:                      {layer['full']:18,}",
            f"  each neuron sees {FILTER_SIZE}x{FILTER_SIZE}x3 only:       {layer['local']:18,}",
            f"  and all of a map share their weights: {layer['shared']:18,}",
        ]
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(9.6, 4)
    left, right = figure.subplots(1, 2)
    sides, counts = list(found["neuron"]), list(found["neuron"].values())
    left.loglog(sides, counts, "o-", color=figures.BLUE, label="fully connected neuron")
    left.axhline(found["window"], color=figures.ORANGE, lw=2, label="5x5x3 filter")
    for side, place in ((32, (10, -16)), (200, (-62, -3))):
        text = f"{found['neuron'][side]:,}"
        left.annotate(text, (side, found["neuron"][side]), place, textcoords="offset points")
    left.annotate(f"{found['window']}", (16, found["window"]), (0, 5), textcoords="offset points")
    left.set_xticks(sides, [f"{s}x{s}" for s in sides])
    left.minorticks_off()
    left.set(xlabel="image, three channels", ylabel="weights", title="One neuron", ylim=(30, 4e5))
    left.legend(loc="upper left")
    left.grid(axis="y")
    layer = found["layers"][200]
    names = ("fully\nconnected", "each sees\n5x5x3", "weights\nshared")
    values = [layer["full"], layer["local"], layer["shared"]]
    bars = right.bar(names, values, color=(figures.BLUE, figures.SKY, figures.ORANGE), width=0.6)
    right.bar_label(bars, [f"{value:,}" for value in values], padding=2)
    right.set_yscale("log")
    right.set(ylabel="weights", ylim=(100, 1e12), xlim=(-0.7, 2.5))
    right.set_title(f"A layer of {layer['neurons']:,} neurons on 200x200x3")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
