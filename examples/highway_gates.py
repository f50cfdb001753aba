"""Highway networks: gates that learn what to carry, and depth that plain networks cannot train.

A highway layer gives y = H(x) T(x) + x (1 - T(x)), T = sigmoid(gate(x)) (Srivastava, Greff,
Schmidhuber 2015). Its gates start almost closed (bias -4), so that at first the input is carried
through. Networks of several depths are trained with and without gates, each at the best of three
learning rates; of the deepest the mean gate of each unit over test images is shown. (A residual
network's skip is the same sum without gates: y = H(x) + x.)
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np
from small_images import small_images, train

L = fc.layers

GATE_BIAS = -4.0  # from -2, 30 layers diverge at these learning rates
DEPTHS = (5, 10, 20, 40)
LEARNING_RATES = (0.003, 0.01, 0.03)


def without_gates(model: L.Sequential, seed: int) -> L.Sequential:
    """The same network, each highway layer replaced by its transform with weights of its own."""
    with fc.init.seeded(seed):
        layers = []
        for layer in model:
            if isinstance(layer, L.Highway):
                width = layer.gate.out_features
                layers.append(L.Sequential(L.Linear(width, width), L.ReLU()))
            elif isinstance(layer, L.Linear):
                layers.append(L.Linear(layer.in_features, layer.out_features))
            else:
                layers.append(type(layer)())
    return L.Sequential(*layers)


def gates(model: L.Sequential, x: Any) -> Any:
    """(highway layers, N, width): T of each highway layer."""
    found = []
    for layer in model:
        if isinstance(layer, L.Highway):
            found.append(fc.sigmoid(layer.gate(x)))
        x = layer(x)
    return np.stack(found)


def compute(settings: figures.Settings) -> dict[str, Any]:
    images, epochs, depths = (2000, 1, (3, 5)) if settings.quick else (12000, 5, DEPTHS)
    data, test, name = small_images(settings, images)
    rates = LEARNING_RATES[-1:] if settings.quick else LEARNING_RATES
    inputs, classes = int(np.prod(data.shape)), len(data.classes)
    accuracy: dict[str, list[float]] = {"plain": [], "highway": []}
    for depth in depths:
        for kind, values in accuracy.items():
            best = -1.0
            for lr in rates:
                trial = fc.models.highway_mlp(
                    depth, num_classes=classes, in_features=inputs, gate_bias=GATE_BIAS, seed=1
                )
                if kind == "plain":
                    trial = without_gates(trial, seed=1)
                right = train(trial, data, test, epochs=epochs, lr=lr)
                if right > best:
                    best, model = right, trial
            values.append(best)
    x, labels = test.batch(slice(1000))
    values = gates(model, x)  # of the deepest highway network
    by_class = np.stack([values[:, labels == c].mean(axis=1) for c in range(classes)])
    return {
        "depths": depths,
        "accuracy": accuracy,
        "chance": 1 / classes,
        "mean_gates": values.mean(axis=1),
        "start": float(fc.sigmoid(np.full((1, 1), GATE_BIAS, np.float32))[0, 0]),
        # How far the classes' mean gates lie apart: what a gate decides by its input.
        "by_class": by_class.std(axis=0).mean(axis=1),
        "trained_on": f"{len(data):,} images of {name}, {epochs} epochs, "
        f"best of {len(rates)} learning rates",
    }


def report(found: dict[str, Any]) -> str:
    lines = [f"{found['trained_on']}: test accuracy with and without gates"]
    pairs = zip(found["depths"], found["accuracy"]["plain"], found["accuracy"]["highway"])
    lines += [
        f"  {depth:2} layers: plain {100 * plain:5.2f} %, highway {100 * highway:5.2f} %"
        for depth, plain, highway in pairs
    ]
    lines.append(
        f"the deepest highway network, layer by layer: mean gate (at the start about "
        f"{found['start']:.2f}), units whose gate is above 0.5, spread between classes"
    )
    for index, units in enumerate(found["mean_gates"], 1):
        if index % 5 not in (0, 1) and len(found["mean_gates"]) > 10:
            continue
        spread = found["by_class"][index - 1]
        lines.append(
            f"  layer {index:2}: {units.mean():.2f}, {(units > 0.5).sum():2} of {len(units)}, "
            f"{spread:.3f}"
        )
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 4.4)
    curve, heat = figure.subplots(1, 2, width_ratios=(1, 1.35))
    for kind, color, marker in (("highway", figures.BLUE, "o"), ("plain", figures.RED, "s")):
        values = [100 * value for value in found["accuracy"][kind]]
        curve.plot(found["depths"], values, marker + "-", color=color, label=kind, lw=2)
    curve.axhline(100 * found["chance"], color=figures.GREY, ls=":", label="guessing")
    curve.set_xticks(found["depths"])
    curve.set(xlabel="layers, 50 units wide", ylabel="test accuracy, %", ylim=(0, 102))
    curve.set_title("Deeper, with and without gates")
    curve.grid(axis="y")
    curve.legend(loc="center left")
    # Units sorted within each layer: their numbers mean nothing.
    units = np.sort(found["mean_gates"], axis=1)[:, ::-1]
    shown = heat.imshow(units, cmap="viridis", vmin=0, vmax=units.max(), aspect="auto",
                        extent=(0.5, units.shape[1] + 0.5, len(units) + 0.5, 0.5))  # fmt: skip
    figure.colorbar(shown, ax=heat, label="mean gate: 0 carries, 1 transforms")
    heat.set(xlabel="unit, sorted by its gate", ylabel="layer")
    heat.set_title(f"Gates after training, {len(units)} highway layers")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
