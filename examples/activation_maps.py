"""First-layer filters and activation maps of a trained network, and where it sees its answer.

Where the folder of ``--data`` holds checkpoints/googlenet/weights.npz (BVLC's GoogLeNet) these are
GoogLeNet's on a photograph, else those of a LeNet-5 trained here; checkpoints/cifar_resnet20/ (a
.th of akamaster/pytorch_resnet_cifar10) adds the filters of the published ResNet-20. GoogLeNet ends
in an average of its maps and one linear layer, so that the linear layer applied at each place gives
a map of the class's score (Zhou et al. 2016).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fastconv as fc
import figures
import numpy as np
from small_images import small_images, train

SHOWN_MAPS = 6
GOOGLENET_LAYERS = {
    "conv1": "conv1, 112x112", "conv3": "conv2/3x3, 56x56", "inception3b": "3b, 28x28",
    "inception4d": "4d, 14x14", "inception5b": "5b, 7x7",
}  # fmt: skip


def strongest(maps: Any, count: int) -> Any:
    """The `count` maps (of (C, H, W)) with the largest values, the strongest first."""
    order = np.argsort(-maps.max(axis=(1, 2)), kind="stable")
    return maps[order[:count]]


def filters_of_resnet20(settings: figures.Settings) -> Any:
    """(16, 3, 3, 3), or None where the checkpoint is missing."""
    folder = settings.find("checkpoints/cifar_resnet20")
    paths = [] if folder is None else sorted(folder.glob("*.th"))
    if not paths:
        return None
    model = fc.models.cifar_resnet(20)
    model.load_state_dict(fc.read_checkpoint(paths[0]))
    return model.conv1.weight.data


def of_googlenet(weights: Path) -> dict[str, Any]:
    """Filters, maps, the five likeliest classes, and the first one's score by place."""
    model = fc.models.googlenet(aux_logits=False)
    model.load_state_dict(fc.read_checkpoint(weights))
    model.eval()
    photo = figures.photo(224)
    mean = np.array(fc.data.PREPROCESSINGS["caffe"].mean, np.float32)
    x = 255 * photo[:, ::-1] - mean[:, None, None]
    names = [name.split(",")[0] for name in fc.data.imagenet_classes()]
    maps, values = {}, x
    for name, layer in model.named_layers():
        if not name or "." in name:
            continue
        if name == "avgpool":
            features = values
        values = layer(values)
        if name in GOOGLENET_LAYERS:
            maps[GOOGLENET_LAYERS[name]] = strongest(values[0], SHOWN_MAPS)
    probabilities = fc.softmax(values)[0]
    best = np.argsort(-probabilities)[:5]
    weight, bias = model.fc.weight.data[best[:1], :, None, None], model.fc.bias.data[best[:1]]
    by_place = fc.conv2d(features, np.ascontiguousarray(weight), bias)[0, 0]
    return {
        "network": "GoogLeNet",
        "filters": model.conv1.conv.weight.data[:, ::-1],  # BGR to RGB
        "image": photo,
        "maps": maps,
        "classes": [(names[index], float(probabilities[index])) for index in best],
        "by_place": by_place,
        "score": (float(by_place.mean()), float(values[0, best[0]])),
    }


def of_lenet5(settings: figures.Settings) -> dict[str, Any]:
    """The same of a LeNet-5 trained here."""
    images, epochs = (2000, 2) if settings.quick else (12000, 5)
    data, test, name = small_images(settings, images)
    model = fc.models.lenet5(num_classes=len(data.classes), seed=0)
    accuracy = train(model, data, test, epochs=epochs, lr=0.02)
    x, _ = test.batch(slice(1))
    maps, values = {}, x
    for layer_name, layer in zip(("c1", "act1", "s2", "c3", "act3", "s4"), model):
        values = layer(values)
        if layer_name in ("act1", "s2", "act3", "s4"):
            title = f"{layer_name}, {values.shape[2]}x{values.shape[3]}"
            maps[title] = strongest(values[0], SHOWN_MAPS)
    probabilities = fc.softmax(model(x))[0]
    best = np.argsort(-probabilities)[:5]
    return {
        "network": f"LeNet-5 ({name}, {100 * accuracy:.1f} % right)",
        "filters": model.c1.weight.data,
        "image": x,
        "maps": maps,
        "classes": [(data.classes[index], float(probabilities[index])) for index in best],
        "by_place": None,
        "score": None,
    }


def compute(settings: figures.Settings) -> dict[str, Any]:
    weights = settings.find("checkpoints/googlenet/weights.npz")
    found = of_lenet5(settings) if weights is None else of_googlenet(weights)
    return found | {"resnet20": filters_of_resnet20(settings)}


def report(found: dict[str, Any]) -> str:
    count, channels, height, width = found["filters"].shape
    lines = [f"{found['network']}: {count} first filters of {height}x{width}x{channels}"]
    lines += [f"  {100 * p:5.1f} %  {name}" for name, p in found["classes"]]
    if found["score"] is not None:
        mean, score = found["score"]
        lines.append(
            f"  score of the first by place: mean {mean:.4f}, the network's own {score:.4f}"
        )
    lines += [
        f"  {name}: the {len(maps)} strongest maps, up to {maps.max():.1f}, "
        f"{100 * float((maps > 0).mean()):.0f} % of their values above zero"
        for name, maps in found["maps"].items()
    ]
    return "\n".join(lines)


def mosaic(filters: Any, across: int) -> Any:
    """(K, C, R, S) -> one picture: each filter stretched to 0..1, a white line between."""
    count, channels, height, width = filters.shape
    down = -(-count // across)
    sheet = np.ones((down * (height + 1) - 1, across * (width + 1) - 1, channels), np.float32)
    for index, values in enumerate(filters):
        row, col = index // across * (height + 1), index % across * (width + 1)
        low, high = values.min(), values.max()
        tile = (values - low) / (high - low)
        sheet[row : row + height, col : col + width] = tile.transpose(1, 2, 0)
    return sheet


def draw(found: dict[str, Any]) -> Any:
    figure = figures.new(10.4, 8)
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.9))
    count = len(found["filters"])
    if found["resnet20"] is None:
        filters, image = left.subplots(2, 1)
    else:
        filters, others, image = left.subplots(3, 1, height_ratios=(1, 0.25, 1))
        others.imshow(mosaic(found["resnet20"], across=8))
        figures.bare(others, "ResNet-20's first layer: 3x3, CIFAR-10")
    across = int(np.ceil(np.sqrt(count)))
    filters.imshow(mosaic(found["filters"], across).squeeze(), cmap="gray")
    figures.bare(filters, f"The {count} filters of the first layer")
    pixels = found["image"][0]
    if len(pixels) == 3:
        image.imshow(figures.as_image(pixels), extent=(0, 1, 0, 1))
        place = np.maximum(found["by_place"], 0)
        image.imshow(place, extent=(0, 1, 0, 1), cmap="inferno", alpha=0.55,
                     interpolation="bilinear")  # fmt: skip
    else:
        image.imshow(pixels[0], cmap="gray")
    name, probability = found["classes"][0]
    seen = "\nand where it is seen" if found["by_place"] is not None else ""
    figures.bare(image, f"{name}, {100 * probability:.0f} %{seen}")
    rows = right.subplots(len(found["maps"]), SHOWN_MAPS)
    for row, (name, maps) in zip(rows, found["maps"].items()):
        for axes, values in zip(row, maps):
            axes.imshow(values, cmap="gray", vmin=0)
            figures.bare(axes)
        row[0].set_ylabel(name, fontsize=10)
    right.suptitle("Strongest activation maps, layer by layer")
    figure.suptitle(found["network"], fontweight="bold")
    return figure


if __name__ == "__main__":
    figures.main(compute, report, draw)
