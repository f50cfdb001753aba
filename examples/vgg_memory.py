"""VGG-16 layer by layer: where its memory and its parameters are, and the slide's 93 MB.

The lecture's slide: most memory is in the early convolutions, most parameters in the first fully
connected layer, and "24 M x 4 bytes = 93 MB an image", forward. The first two are right. The third
is not the sum of the slide's own lines, which is 15.2 M values, 61 MB. Other ways to count are
computed beside it, and none of them gives 24 M.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import fastconv as fc
import figures

INPUT = (1, 3, 224, 224)
VALUE_BYTES = 4
SLIDE_VALUES, SLIDE_MEGABYTES = 24e6, 93  # what the slide says, to compare with
COUNTED = {"Conv2d": "conv", "MaxPool2d": "pool", "Linear": "fc"}


def name_of(row: Any, block: int, index: int) -> str:
    """The slide's names: conv1_1, pool1, fc6."""
    kind = COUNTED[row.layer]
    return f"{kind}{block}_{index}" if kind == "conv" else f"{kind}{block}"


def compute(settings: figures.Settings) -> dict[str, Any]:
    with fc.init.skipped():
        model = fc.models.vgg16()
    table = fc.summary(model, INPUT)
    layers = [{"name": "input", "values": math.prod(INPUT), "parameters": 0, "kind": "input"}]
    relu_values, block, index = 0, 1, 0
    for row in table.rows:
        values = math.prod(row.output_shape)
        relu_values += values if row.layer == "ReLU" else 0
        if row.layer not in COUNTED:
            continue
        if row.layer == "Conv2d":
            index += 1
        layers.append(
            {
                "name": name_of(row, block, index),
                "values": values,
                "parameters": row.parameters,
                "kind": COUNTED[row.layer],
            }
        )
        if row.layer != "Conv2d":
            block, index = block + 1, 0
    values = sum(layer["values"] for layer in layers)
    return {
        "layers": layers,
        "values": values,
        "with_relu": values + relu_values,
        "training_bytes": table.training_bytes,
        "parameters": table.parameters,
        "weights": sum(p.size for name, p in model.named_parameters() if name.endswith("weight")),
        "pairs": max(a["values"] + b["values"] for a, b in pairwise(layers)),
    }


def report(found: dict[str, Any]) -> str:
    def line(what: str, values: float) -> str:
        size = VALUE_BYTES * values
        return f"  {what:44} {values / 1e6:5.2f} M, {size / 1e6:6.1f} MB ({size / 2**20:.1f} MiB)"

    lines = ["VGG-16, one image: values of the output, parameters"]
    lines += [
        f"  {layer['name']:8} {layer['values']:9,} {layer['parameters']:12,}"
        for layer in found["layers"]
    ]
    lines += [
        "parameters",
        f"  {found['parameters']:,} with biases, {found['weights']:,} without (the slide: 138 M)",
        "values an image, forward, 4 bytes each",
        line("sum of the lines above", found["values"]),
        line("with the outputs of ReLU kept apart", found["with_relu"]),
        line("largest input and output of one layer", found["pairs"]),
        line("the slide's 24 M", SLIDE_VALUES),
        f"  The slide gives {SLIDE_MEGABYTES} MB: its 24 M are "
        f"{SLIDE_VALUES / found['values']:.2f} times the sum of its own lines, and no count above.",
        f"kept for backward by fastconv: {found['training_bytes'] / 1e6:.1f} MB "
        "(outputs that some layer needs, once, and 8-byte indices of maxima)",
    ]
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 6)
    memory, parameters = figure.subplots(1, 2, sharey=True)
    layers = found["layers"]
    color = {"input": figures.BLACK, "conv": figures.BLUE, "pool": figures.GREY}
    color["fc"] = figures.ORANGE
    places = range(len(layers))
    colors = [color[layer["kind"]] for layer in layers]
    for axes, key, scale, unit in (
        (memory, "values", VALUE_BYTES / 1e6, "MB"),
        (parameters, "parameters", 1e-6, "M"),
    ):
        values = [layer[key] * scale for layer in layers]
        bars = axes.barh(places, values, color=colors, height=0.75)
        shown = [f"{v:.1f}" if v > 10 else f"{v:.2f}" if v > 0.01 else f"{v:.1g}" for v in values]
        labels = [text if layer[key] else "" for text, layer in zip(shown, layers)]
        axes.bar_label(bars, labels, padding=3, fontsize=9)
        axes.margins(x=0.12)
        axes.set_xlabel("MB, float32" if unit == "MB" else "million")
    memory.set_yticks(places, [layer["name"] for layer in layers], fontsize=10)
    memory.invert_yaxis()
    total = VALUE_BYTES * found["values"] / 1e6
    memory.set_title(f"Output of each layer: {total:.0f} MB in all\n(the slide: {SLIDE_MEGABYTES})")
    parameters.set_title(f"Parameters:\n{found['parameters']:,} in all")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
