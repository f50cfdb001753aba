"""What a filter sees: the receptive field of VGG-16's layers, grown 3x3 by 3x3.

The arithmetic (field = field before + (F - 1) * step, step = step before * stride) is fc.summary's.
It is checked by gradients: backpropagate from one output and count the input pixels whose gradient
is not zero. That is done on VGG's geometry with one channel, positive weights and average pooling,
where no product can vanish. The same gradient shows that a filter looks at the middle of its field
much more than at the edges (Luo, Li, Urtasun, Zemel 2016, "Understanding the effective receptive
field").
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np

L = fc.layers

SIZE = 224
SHOWN = ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3")
MASS = 0.95


def geometry_of_vgg16() -> L.Sequential:
    """VGG-16's windows over one channel; each convolution averages its window."""
    with fc.init.skipped():
        model = fc.models.vgg16()
    layers: dict[str, L.Layer] = {}
    block, index = 1, 1
    for layer in model["features"]:
        if isinstance(layer, L.Conv2d):
            window = {"stride": layer.stride, "padding": layer.padding}
            convolution = L.Conv2d(1, 1, layer.kernel_size, **window, bias=False)
            convolution.weight.data[...] = 1 / convolution.weight.size
            layers[f"conv{block}_{index}"] = convolution
            index += 1
        elif isinstance(layer, L.MaxPool2d):
            layers[f"pool{block}"] = L.AvgPool2d(layer.kernel_size, stride=layer.stride)
            block, index = block + 1, 1
    return L.Sequential(layers)


def seen(model: L.Sequential, count: int) -> Any:
    """(SIZE, SIZE): gradient of the middle output of the first `count` layers by the image."""
    part = model[:count]
    y = part(np.ones((1, 1, SIZE, SIZE), np.float32))
    grad = np.zeros_like(y)
    grad[..., y.shape[-2] // 2, y.shape[-1] // 2] = 1
    return part.backward(grad)[0, 0]


def box(grad: Any) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the pixels whose gradient is not zero."""
    rows, cols = np.flatnonzero(grad.any(axis=1)), np.flatnonzero(grad.any(axis=0))
    return int(rows[0]), int(cols[0]), len(rows), len(cols)


def window_of_mass(grad: Any, mass: float) -> int:
    """Side of the smallest square around the field's middle that holds `mass` of the gradient."""
    top, left, height, width = box(grad)
    field = np.abs(grad[top : top + height, left : left + width])
    for cut in range(min(height, width) // 2, -1, -1):
        inner = field[cut : height - cut, cut : width - cut]
        if inner.sum() >= mass * field.sum():
            return int(inner.shape[0])
    return height


def compute(settings: figures.Settings) -> dict[str, Any]:
    model = geometry_of_vgg16()
    rows = {row.path: row for row in fc.summary(model, (1, 1, SIZE, SIZE)).rows if row.path}
    layers = {}
    for count, (name, row) in enumerate(rows.items(), 1):
        grad = seen(model, count)
        layers[name] = {
            "arithmetic": row.receptive_field[0],
            "box": box(grad),
            "pixels": int((grad != 0).sum()),
            "window_of_mass": window_of_mass(grad, MASS),
        }
    last = list(rows).index(SHOWN[-1]) + 1
    return {"layers": layers, "grad": seen(model, last), "photo": figures.photo(SIZE)}


def report(found: dict[str, Any]) -> str:
    lines = [
        f"VGG-16 on {SIZE}x{SIZE}: side of the receptive field by arithmetic, by gradient; "
        f"side that holds {100 * MASS:.0f} % of the gradient"
    ]
    for name, layer in found["layers"].items():
        _, _, height, width = layer["box"]
        lines.append(
            f"  {name}: {layer['arithmetic']:3}   {height:3}x{width:<3} "
            f"({layer['pixels']:,} pixels)   {layer['window_of_mass']:3}"
        )
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(11, 4)
    photo, growth, heat = figure.subplots(1, 3, width_ratios=(1, 1.15, 1))
    photo.imshow(figures.as_image(found["photo"]))
    for name in SHOWN:
        top, left, height, width = found["layers"][name]["box"]
        xs, ys = (left - 0.5, left + width - 0.5), (top - 0.5, top + height - 0.5)
        frame = (xs[0], xs[1], xs[1], xs[0], xs[0]), (ys[0], ys[0], ys[1], ys[1], ys[0])
        for color, weight in ((figures.BLACK, 3.5), ("white", 1.8)):
            photo.plot(*frame, color=color, lw=weight)
        if width > 30:
            photo.text(
                xs[0] + 1, ys[0] - 3, f"{name}: {width}", va="bottom", color="white", fontsize=10,
                bbox={"facecolor": figures.BLACK, "pad": 1.5, "lw": 0},
            )  # fmt: skip
    small = found["layers"][SHOWN[0]]["box"][2], found["layers"][SHOWN[1]]["box"][2]
    figures.bare(photo, f"What one output sees\n(innermost: {small[0]} and {small[1]})")
    names = list(found["layers"])
    places = range(len(names))
    sides = [layer["arithmetic"] for layer in found["layers"].values()]
    growth.plot(places, sides, "-", color=figures.BLUE, lw=2, label="arithmetic")
    measured = [layer["box"][2] for layer in found["layers"].values()]
    growth.plot(places, measured, "o", color=figures.ORANGE, label="nonzero gradient")
    inner = [layer["window_of_mass"] for layer in found["layers"].values()]
    label = f"{100 * MASS:.0f} % of the gradient"
    growth.plot(places, inner, "--", color=figures.GREEN, lw=2, label=label)
    growth.set_xticks(places, names, rotation=90, fontsize=9)
    growth.set(ylabel="side in pixels", title="Growth through VGG-16")
    growth.grid(axis="y")
    growth.legend(loc="upper left")
    shown = heat.imshow(found["grad"] / found["grad"].max(), cmap="viridis")
    figure.colorbar(shown, ax=heat, shrink=0.75, label="gradient, 1 at its largest")
    figures.bare(heat, f"How much {SHOWN[-1]} looks where")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
