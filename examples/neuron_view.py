"""The neuron's view of a convolution: one output is one dot product, over all input channels.

A 5x5 filter on an RGB image is 5x5x3 numbers. At each place it is multiplied with the patch under
it, and the 75 products and the bias are summed to one number: one map a filter, not one map a
channel and filter. The neurons of six filters at one place look at the same patch, each for
something else. The filters here are edges in six directions (Gabor functions).
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np

SIZE, FILTER, COUNT = 32, 5, 6
PHASE = 0.4  # of the Gabor functions: almost odd
PLACE = (17, 5)  # row and column of the output that is looked at
CHANNELS = ("red", "green", "blue")


def oriented_filters() -> Any:
    """(6, 3, 5, 5): Gabor functions, every 30 degrees, the same in each channel, nowhere zero."""
    reach = np.arange(FILTER) - FILTER // 2
    rows, cols = np.meshgrid(reach, reach, indexing="ij")
    filters = []
    for angle in np.pi / COUNT * np.arange(COUNT):
        across = cols * np.cos(angle) + rows * np.sin(angle)
        wave = np.exp(-(rows**2 + cols**2) / 4) * np.sin(across + PHASE)
        filters.append(wave - wave.mean())  # so that an even surface gives zero
    made = np.stack(filters)[:, None].repeat(3, axis=1)
    return np.ascontiguousarray(made, np.float32)


def compute(settings: figures.Settings) -> dict[str, Any]:
    x, weight = figures.photo(SIZE), oriented_filters()
    bias = np.full(COUNT, 0.1, np.float32)
    maps = fc.conv2d(x, weight, bias)[0]
    row, col = PLACE
    patch = x[0, :, row : row + FILTER, col : col + FILTER]
    products = patch * weight  # (6, 3, 5, 5)
    by_channel = products.sum(axis=(2, 3))
    by_hand = by_channel.sum(axis=1) + bias
    # Which values of the image that one output depends on.
    grad = np.zeros((1, *maps.shape), np.float32)
    grad[0, 0, row, col] = 1
    depends = fc.conv2d_grad_input(grad, weight, x.shape)[0] != 0
    under = depends[:, row : row + FILTER, col : col + FILTER]
    return {
        "image": x,
        "weight": weight,
        "bias": bias,
        "maps": maps,
        "patch": patch,
        "products": products,
        "by_channel": by_channel,
        "by_hand": by_hand,
        "pixels_seen": int(depends.any(axis=0).sum()),
        "values_seen": int(depends.sum()),
        "under_the_filter": int(under.sum()),
    }


def report(found: dict[str, Any]) -> str:
    row, col = PLACE
    shape = "x".join(map(str, found["maps"].shape))
    lines = [
        f"six 5x5x3 filters on {SIZE}x{SIZE}x3: {shape} outputs",
        f"at row {row}, column {col}:",
    ]
    for index in range(COUNT):
        red, green, blue = found["by_channel"][index]
        lines.append(
            f"  filter {index}: {red:+.3f} {green:+.3f} {blue:+.3f} (red, green, blue) "
            f"{found['bias'][index]:+.3f} (bias) = {found['by_hand'][index]:+.4f}, "
            f"conv2d gives {found['maps'][index, row, col]:+.4f}"
        )
    lines.append(
        f"the gradient of one output is nonzero at {found['pixels_seen']} pixels, "
        f"{found['values_seen']} values of the image, {found['under_the_filter']} under the filter"
    )
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 6)
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.45, 1))
    draw_dot_product(upper, found)
    row, col = PLACE
    limit = float(np.abs(found["maps"]).max())
    for index, axes in enumerate(lower.subplots(1, COUNT)):
        axes.imshow(found["maps"][index], cmap="PuOr", vmin=-limit, vmax=limit)
        axes.plot(col, row, "s", ms=6, mfc="none", mec=figures.RED, mew=2)
        figures.bare(axes, f"filter {index}: {found['maps'][index, row, col]:+.2f}")
        inset = axes.inset_axes((0.72, 0.0, 0.28, 0.28))
        inset.imshow(found["weight"][index, 0], cmap="PuOr", vmin=-1, vmax=1)
        inset.set_xticks([])
        inset.set_yticks([])
        inset.spines[:].set_visible(True)
    lower.suptitle("Six filters, six maps; the six neurons at the marked place see the same patch")
    return figure


def draw_dot_product(figure: Any, found: dict[str, Any]) -> None:
    """The image, and for each channel patch, filter 0 and their product."""
    figure.suptitle("One output of filter 0: 75 products, summed over all three channels")
    image, grid = figure.subfigures(1, 2, width_ratios=(1, 1.75))
    axes = image.subplots()
    axes.imshow(figures.as_image(found["image"]))
    row, col = PLACE
    xs, ys = [col - 0.5, col + FILTER - 0.5], [row - 0.5, row + FILTER - 0.5]
    frame = [*xs, *xs[::-1], xs[0]], [ys[0], ys[0], ys[1], ys[1], ys[0]]
    for color, width in ((figures.BLACK, 5), ("white", 2.5)):
        axes.plot(*frame, color=color, lw=width)
    figures.bare(axes, f"{SIZE}x{SIZE}x3 image")
    rows = grid.subplots(3, 4, width_ratios=(1, 1, 1, 2.4))
    limit = float(np.abs(found["products"][0]).max())
    for channel, (patch, weight, product, words) in enumerate(rows):
        patch.imshow(found["patch"][channel], cmap="gray", vmin=0, vmax=1)
        weight.imshow(found["weight"][0, channel], cmap="PuOr", vmin=-1, vmax=1)
        product.imshow(found["products"][0, channel], cmap="PuOr", vmin=-limit, vmax=limit)
        patch.set_ylabel(CHANNELS[channel])
        for axes, title in ((patch, "patch"), (weight, "x  filter"), (product, "=  products")):
            figures.bare(axes, title if channel == 0 else None)
        words.axis("off")
        sums = f"sum {found['by_channel'][0, channel]:+.3f}"
        if channel == 2:
            sums += f"\nbias {found['bias'][0]:+.3f}\nall: {found['by_hand'][0]:+.3f}"
        words.text(0, 0.5, sums, va="center", transform=words.transAxes)


if __name__ == "__main__":
    figures.main(compute, report, draw)
