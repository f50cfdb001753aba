"""Parameters of a convolutional layer: F F D K + K, whatever the size of the image.

The lecture's example: ten 5x5 filters on a 32x32x3 input have 76 parameters each, 760 in all. The
second picture is VGG's argument for small filters: three layers of 3x3 see what one layer of 7x7
sees, with 27 weights per pair of channels in place of 49 and two more non-linearities.
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures

L = fc.layers

# name, input shape, filters K, size F, stride, padding
LAYERS = (
    ("ten 5x5 filters", (1, 3, 32, 32), 10, 5, 1, 2),
    ("LeNet-5, C1", (1, 1, 32, 32), 6, 5, 1, 0),
    ("AlexNet, conv1", (1, 3, 227, 227), 96, 11, 4, 0),
    ("VGG, conv1_2", (1, 64, 224, 224), 64, 3, 1, 1),
    ("VGG, conv5_3", (1, 512, 14, 14), 512, 3, 1, 1),
    ("1x1, 64 to 32", (1, 64, 56, 56), 32, 1, 1, 0),
)
STACKS = ((3,), (3, 3), (5,), (3, 3, 3), (7,))
CHANNELS = 64


def compute(settings: figures.Settings) -> dict[str, Any]:
    layers = []
    for name, shape, filters, size, stride, padding in LAYERS:
        layer = L.Conv2d(shape[1], filters, size, stride=stride, padding=padding)
        layers.append(
            {
                "name": name,
                "formula": size * size * shape[1] * filters + filters,
                "parameters": layer.num_parameters,
                "output": layer.output_shape(shape)[1:],
                "multiply_adds": fc.summary(layer, shape).multiply_adds,
                "terms": f"{size} x {size} x {shape[1]} x {filters} + {filters}",
            }
        )
    stacks = {}
    for sizes in STACKS:
        model = L.Sequential(*(L.Conv2d(CHANNELS, CHANNELS, f, padding="same") for f in sizes))
        table = fc.summary(model, (1, CHANNELS, 56, 56))
        stacks[sizes] = {
            "parameters": table.parameters,
            "sees": table.rows[-1].receptive_field[0],
            "multiply_adds": table.multiply_adds,
        }
    return {"layers": layers, "stacks": stacks}


def stack_name(sizes: tuple[int, ...]) -> str:
    """For example "three of 3x3"."""
    count = {1: "one", 2: "two", 3: "three"}[len(sizes)]
    return f"{count} of {sizes[0]}x{sizes[0]}"


def report(found: dict[str, Any]) -> str:
    lines = ["parameters: F x F x D x K + K"]
    for row in found["layers"]:
        output = "x".join(str(size) for size in (*row["output"][1:], row["output"][0]))
        lines.append(
            f"  {row['name']:16} {row['terms']:24} = {row['parameters']:9,}"
            f"   output {output}, {row['multiply_adds'] / 1e6:,.2f} M multiply-adds"
        )
    lines.append(f"stacks over {CHANNELS} channels, which see the same window")
    lines += [
        f"  {stack_name(sizes):14} sees {row['sees']}x{row['sees']}: {row['parameters']:7,}"
        f" parameters, {row['multiply_adds'] / 1e6:,.0f} M multiply-adds on 56x56"
        for sizes, row in found["stacks"].items()
    ]
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
    rows = found["layers"][::-1]
    names = [f"{row['name']}\n{row['terms']}" for row in rows]
    values = [row["parameters"] for row in rows]
    bars = left.barh(names, values, color=figures.BLUE, height=0.6)
    left.bar_label(bars, [f"{value:,}" for value in values], padding=3)
    left.set_xscale("log")
    left.set(xlim=(50, 5e7), xlabel="parameters", title="F x F x D x K + K")
    left.tick_params(axis="y", labelsize=10)
    stacks = found["stacks"]
    # One colour a window, so that what sees the same can be told at once.
    color = {3: figures.GREY, 5: figures.SKY, 7: figures.ORANGE}
    bars = right.bar(
        [stack_name(sizes).replace(" of ", "\nof ") for sizes in stacks],
        [row["parameters"] for row in stacks.values()],
        color=[color[row["sees"]] for row in stacks.values()],
        width=0.65,
    )
    labels = [f"{r['parameters']:,}\nsees {r['sees']}x{r['sees']}" for r in stacks.values()]
    right.bar_label(bars, labels, padding=2, fontsize=10)
    right.margins(y=0.18)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    right.set(ylabel="parameters", title=f"Small filters, stacked ({CHANNELS} channels)")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
