"""Output size, stride and padding: (N - F + 2P) / S + 1.

The lecture's input of 7x7 under a 3x3 filter: stride 1 gives 5x5, stride 2 gives 3x3, stride 3 does
not fit. Which pixels a filter covers is measured, not drawn by hand: the gradient of the sum of all
outputs with respect to a pixel counts, where every weight is 1, the windows that hold the pixel.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import fastconv as fc
import figures
import numpy as np

INPUT, FILTER = 7, 3
CASES = (("stride 1", 1, 0), ("stride 2", 2, 0), ("stride 3", 3, 0), ("stride 1, padding 1", 1, 1))


def formula(size: int, filter_size: int, stride: int, padding: int) -> Fraction:
    """The lecture's formula; a fraction where the filter does not fit."""
    return Fraction(size - filter_size + 2 * padding, stride) + 1


def windows_over_pixels(stride: int, padding: int) -> Any:
    """(INPUT, INPUT): how many windows hold each pixel."""
    weight = np.ones((1, 1, FILTER, FILTER), np.float32)
    shape = (1, 1, INPUT, INPUT)
    out = fc.conv2d_output_shape(shape, weight.shape, stride=stride, padding=padding)
    ones = np.ones(out, np.float32)
    grad = fc.conv2d_grad_input(ones, weight, shape, stride=stride, padding=padding)
    return grad[0, 0].astype(int)


def compute(settings: figures.Settings) -> dict[str, Any]:
    cases = []
    for name, stride, padding in CASES:
        shape = fc.conv2d_output_shape(
            (1, 1, INPUT, INPUT), (1, 1, FILTER, FILTER), stride=stride, padding=padding
        )
        cases.append(
            {
                "name": name,
                "stride": stride,
                "padding": padding,
                "formula": formula(INPUT, FILTER, stride, padding),
                "output": shape[-1],
                "windows": windows_over_pixels(stride, padding),
            }
        )
    # Without padding each 5x5 filter takes 4 rows and columns from a 32x32 image.
    convolution = fc.layers.Conv2d(3, 3, 5)
    shrinking = [32]
    while shrinking[-1] >= 5:
        shrinking.append(convolution.output_shape((1, 3, shrinking[-1], shrinking[-1]))[-1])
    same = {}
    for size in (1, 3, 5, 7):
        padding = (size - 1) // 2
        weight = (1, 1, size, size)
        kept = fc.conv2d_output_shape((1, 1, 32, 32), weight, padding=padding)[-1]
        by_name = fc.conv2d_output_shape((1, 1, 32, 32), weight, padding="same")[-1]
        same[size] = {"padding": padding, "output": kept, "by_name": by_name}
    return {"cases": cases, "shrinking": shrinking, "same": same}


def report(found: dict[str, Any]) -> str:
    lines = [f"a {INPUT}x{INPUT} input under a {FILTER}x{FILTER} filter"]
    for case in found["cases"]:
        unseen = int((case["windows"] == 0).sum())
        note = "" if case["formula"].denominator == 1 else f" = {float(case['formula']):.2f}"
        lines.append(
            f"  {case['name']:20} ({INPUT} - {FILTER} + {2 * case['padding']}) / {case['stride']}"
            f" + 1{note}: {case['output']}x{case['output']}, pixels no window holds: {unseen}"
        )
    lines += [
        "  Stride 3 does not fit. The lecture rules it out; fastconv, like other libraries, rounds",
        "  down, and the last row and column are never seen.",
        "5x5 filters one after another, no padding: "
        + " -> ".join(str(size) for size in found["shrinking"]),
        "padding (F - 1) / 2 keeps 32x32",
    ]
    lines += [
        f"  F = {size}: P = {row['padding']} gives {row['output']}, 'same' gives {row['by_name']}"
        for size, row in found["same"].items()
    ]
    return "\n".join(lines)


def draw_case(axes: Any, case: dict[str, Any]) -> None:
    """The grid of pixels, shaded by the number of windows, and the windows of the first row."""
    pad, size = case["padding"], INPUT
    axes.imshow(case["windows"], cmap="Blues", vmin=0, vmax=14, origin="upper")
    for row in range(size):
        for col in range(size):
            count = case["windows"][row, col]
            axes.text(
                col, row, str(count), ha="center", va="center",
                color=figures.RED if count == 0 else figures.BLACK,
                fontweight="bold" if count == 0 else "normal",
            )  # fmt: skip
    outer = -0.5 - pad, size + 2 * pad
    _square(axes, outer[0], outer[0], outer[1], ls=":", color=figures.GREY, lw=1.5)
    _square(axes, -0.5, -0.5, size, color=figures.BLACK, lw=1)
    colors = (figures.RED, figures.ORANGE, figures.GREEN, figures.PURPLE, figures.SKY)
    for index in range(min(case["output"], 3)):
        left = index * case["stride"] - pad - 0.5
        shift = 0.08 * index  # so that overlapping frames can be told apart
        _square(axes, left + shift, -pad - 0.5 + shift, FILTER - 2 * shift, color=colors[index])
    axes.set(xlim=(-1.7, size + 0.7), ylim=(size + 0.7, -1.7))
    fits = "" if case["formula"].denominator == 1 else "\ndoes not fit, rounded down"
    figures.bare(axes, f"{case['name']}: {case['output']}x{case['output']}{fits}")


def _square(axes: Any, left: float, top: float, side: float, **style: Any) -> None:
    style = {"lw": 2.5, "clip_on": False} | style
    xs, ys = [left, left + side, left + side, left, left], [top, top, top + side, top + side, top]
    axes.plot(xs, ys, **style)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 3.5)
    for axes, case in zip(figure.subplots(1, len(found["cases"])), found["cases"]):
        draw_case(axes, case)
    figure.suptitle(
        "7x7 input, 3x3 filter: its first windows (frames), and how many windows hold each pixel"
    )
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
