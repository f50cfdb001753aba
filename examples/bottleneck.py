"""1x1 kernels as dimensionality reduction, and what they save in GoogLeNet's Inception modules.

A 1x1 convolution leaves height and width alone and mixes the channels: 64 to 32 in the lecture. The
Inception module (Szegedy et al. 2014, figure 2) puts one before its 3x3 and 5x5 filters; the naive
module of figure 2(a) has none, and its pooling branch hands all channels on.
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures

L = fc.layers

SHOWN = "3b"
BRANCHES = {"branch1": "1x1", "branch2": "3x3", "branch3": "5x5", "branch4": "pool"}


def naive(module: L.Concat, channels: int) -> L.Concat:
    """The same 1x1, 3x3 and 5x5 filters, each on all `channels`."""
    parts: dict[str, L.Layer] = {}
    for name in ("branch1", "branch2", "branch3"):
        last = [part for _, part in getattr(module, name).named_layers()][-2]
        size = last.kernel_size[0]
        parts[name] = L.Conv2d(channels, last.out_channels, size, padding=size // 2)
    return L.Concat(parts | {"branch4": L.MaxPool2d(3, stride=1, padding=1)})


def measure(module: L.Concat, shape: tuple[int, ...]) -> dict[str, Any]:
    """Multiply-adds by branch; parameters and output channels of the module."""
    costs = {}
    for name, title in BRANCHES.items():
        costs[title] = fc.summary(getattr(module, name), shape).multiply_adds
    return {
        "multiply_adds": costs,
        "parameters": module.num_parameters,
        "channels": module.output_shape(shape)[1],
    }


def compute(settings: figures.Settings) -> dict[str, Any]:
    reduction = L.Conv2d(64, 32, 1)
    model = fc.models.googlenet(aux_logits=False).eval()
    shape: tuple[int, ...] = (1, 3, 224, 224)
    modules = {}
    for name, layer in model.named_layers():
        if not name or "." in name:
            continue
        if name.startswith("inception"):
            modules[name.removeprefix("inception")] = {
                "input": shape[1:],
                "reduced": measure(layer, shape),
                "naive": measure(naive(layer, shape[1]), shape),
            }
        shape = layer.output_shape(shape)
    return {
        "output": reduction.output_shape((1, 64, 56, 56))[1:],
        "parameters": reduction.num_parameters,
        "modules": modules,
        "network": fc.summary(model, (1, 3, 224, 224)).multiply_adds,
    }


def total(measured: dict[str, Any]) -> int:
    return sum(measured["multiply_adds"].values())


def report(found: dict[str, Any]) -> str:
    lines = [
        f"a 1x1 convolution of 64 channels to 32 on 56x56: output {found['output']}, "
        f"{found['parameters']:,} parameters",
        "Inception modules: multiply-adds and output channels, naive and with 1x1 reductions",
    ]
    for name, module in found["modules"].items():
        before, after = module["naive"], module["reduced"]
        lines.append(
            f"  {name}: {total(before) / 1e6:7.1f} M, {before['channels']:5} channels -> "
            f"{total(after) / 1e6:6.1f} M, {after['channels']:5} channels: "
            f"{total(before) / total(after):.1f} times fewer"
        )
    both = [sum(total(m[kind]) for m in found["modules"].values()) for kind in ("naive", "reduced")]
    lines.append(
        f"  all nine: {both[0] / 1e9:.2f} G -> {both[1] / 1e9:.2f} G, of the network's "
        f"{found['network'] / 1e9:.2f} G"
    )
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.5))
    module = found["modules"][SHOWN]
    colors = (figures.GREY, figures.BLUE, figures.ORANGE, figures.GREEN)
    for place, kind in enumerate(("naive", "reduced")):
        below = 0.0
        for branch, color in zip(BRANCHES.values(), colors):
            value = module[kind]["multiply_adds"][branch] / 1e6
            label = f"{branch} branch" if place == 0 else None
            left.bar(place, value, bottom=below, color=color, width=0.55, label=label)
            below += value
        text = f"{below:.0f} M\n{module[kind]['channels']} channels out"
        left.text(place, below + 12, text, ha="center")
    left.set_xticks((0, 1), ("naive", "with 1x1\nreductions"))
    left.set(ylabel="million multiply-adds", xlim=(-0.5, 1.6))
    left.set_ylim(0, 1.18 * total(module["naive"]) / 1e6)
    left.set_title(f"Module {SHOWN}, on {'x'.join(map(str, module['input']))}")
    left.legend(loc="upper right", bbox_to_anchor=(1.02, 0.9))
    names = list(found["modules"])
    for shift, kind, color in ((-0.2, "naive", figures.RED), (0.2, "reduced", figures.BLUE)):
        values = [total(found["modules"][name][kind]) / 1e6 for name in names]
        label = "naive" if kind == "naive" else "with 1x1 reductions"
        places = [index + shift for index in range(len(names))]
        right.bar(places, values, 0.4, color=color, label=label)
    right.set_xticks(range(len(names)), names)
    right.set(xlabel="module", ylabel="million multiply-adds", title="GoogLeNet's nine modules")
    right.grid(axis="y")
    right.legend()
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
