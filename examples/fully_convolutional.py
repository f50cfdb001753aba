"""Average pooling in place of fully connected layers: fewer parameters, images of any size.

VGG-16 ends in 7x7x512 maps and three fully connected layers; the lecture averages each 7x7 map to
one number and keeps one linear layer on the 512 averages. Averaging and a linear map commute:
averaging the maps and then classifying is classifying at each place by a 1x1 convolution and then
averaging. So such a network takes images of any size, and its map of scores shows where it sees
what (Lin, Chen, Yan 2013; Zhou et al. 2016). A small one is trained here and run over a strip.
"""

from __future__ import annotations

from typing import Any

import fastconv as fc
import figures
import numpy as np
from small_images import bars, train

L = fc.layers

IMAGE = (3, 224, 224)
STRIP = 4  # images side by side


def heads() -> dict[str, dict[str, int]]:
    """Parameters by linear layer of VGG-16 as it is, and with its last maps averaged."""
    with fc.init.skipped():
        vgg = fc.models.vgg16()
        averaged = fc.models.average_pooled(vgg, IMAGE)
    found = {}
    for name, model in (("fully connected", vgg), ("average pool, linear", averaged)):
        found[name] = {
            f"{layer.in_features:,} to {layer.out_features:,}": layer.num_parameters
            for _, layer in model.named_layers()
            if isinstance(layer, L.Linear)
        }
    return found


def network(classes: int) -> L.Sequential:
    """Convolutions, the average of each map, one linear layer."""
    layers: dict[str, L.Layer] = {}
    for index, (before, after, stride) in enumerate(((1, 16, 1), (16, 32, 2), (32, 64, 2))):
        layers[f"conv{index}"] = L.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        layers[f"norm{index}"] = L.BatchNorm2d(after)
        layers[f"relu{index}"] = L.ReLU()
    layers |= {"average": L.GlobalAvgPool2d(), "flatten": L.Flatten()}
    return L.Sequential(layers | {"linear": L.Linear(64, classes)})


def compute(settings: figures.Settings) -> dict[str, Any]:
    images, epochs = (2000, 2) if settings.quick else (12000, 4)
    data, test = bars(images, seed=1), bars(2000, seed=2)
    with fc.init.seeded(1):
        model = network(len(data.classes))
    accuracy = train(model, data, test, epochs=epochs, lr=0.05)
    # One image of each of several classes, side by side.
    firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in range(STRIP)]
    x, labels = test.batch(np.array(firsts))
    strip = np.concatenate(list(x), axis=-1)[None]
    convolutional = fc.models.fully_convolutional(model, data.shape)
    by_place = convolutional["classifier"](convolutional["features"](strip))
    logits = model(strip)
    return {
        "heads": heads(),
        "trained_on": f"{len(data):,} images of bars, {epochs} epochs",
        "accuracy": accuracy,
        "strip": strip[0, 0],
        "by_place": by_place[0, labels],
        "classes": [test.classes[label] for label in labels],
        "difference": float(np.abs(by_place.mean(axis=(2, 3)) - logits).max()),
        "largest": float(np.abs(logits).max()),
    }


def report(found: dict[str, Any]) -> str:
    lines = ["VGG-16's classifier on 7x7x512 maps"]
    totals = {}
    for kind, layers in found["heads"].items():
        totals[kind] = sum(layers.values())
        each = ", ".join(f"{name}: {count:,}" for name, count in layers.items())
        lines.append(f"  {kind:20} {totals[kind]:11,} parameters ({each})")
    full, averaged = totals.values()
    lines += [
        f"  {full / averaged:.0f} times fewer",
        f"a small network that ends in an average, {found['trained_on']}: "
        f"{100 * found['accuracy']:.2f} % right",
        "  over a strip of {}x{}: mean of the scores by place against the network's own scores: "
        "largest difference {:.1e} of {:.1f}".format(
            *found["strip"].shape, found["difference"], found["largest"]
        ),
    ]
    return "\n".join(lines)


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 5)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.35))
    axes = left.subplots()
    colors = (figures.SKY, figures.ORANGE, figures.GREEN)
    for place, kind in enumerate(found["heads"]):
        below = 0.0
        for (name, count), color in zip(found["heads"][kind].items(), colors):
            axes.bar(place, count / 1e6, bottom=below, color=color, width=0.7)
            below += count / 1e6
            if count > 1e7:
                text = f"{name}\n{count:,}"
                axes.text(place, below - count / 2e6, text, ha="center", va="center", fontsize=10)
        total = sum(found["heads"][kind].values())
        axes.text(place, below + 1.5, f"{total:,}", ha="center", fontweight="bold")
    axes.set_xticks((0, 1), ("three fully\nconnected layers", "average pool,\none linear layer"))
    axes.set(ylabel="million parameters", xlim=(-0.6, 1.6))
    axes.set_title("VGG-16's classifier, on 7x7x512 maps")
    axes.margins(y=0.08)
    rows = right.subplots(1 + STRIP, 1)
    rows[0].imshow(found["strip"], cmap="gray")
    figures.bare(rows[0], "A strip of images; scores of its classes (purple for)")
    rows[0].set_ylabel("input", rotation=0, ha="right", va="center")
    limit = float(np.abs(found["by_place"]).max())
    for row, name, scores in zip(rows[1:], found["classes"], found["by_place"]):
        row.imshow(scores, cmap="PuOr", vmin=-limit, vmax=limit)
        figures.bare(row)
        row.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
