"""Every example of the lecture runs in its short form, draws its picture, and its figures are those
worked out by hand, from the lecture or from the papers."""

from __future__ import annotations

import importlib
import math
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import fastconv as fc
import numpy as np
import pytest
from support import shared_data

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"

pytest.importorskip("matplotlib", reason="the examples draw with matplotlib")
pytest.importorskip("PIL", reason="the examples write their pictures with Pillow")
if not EXAMPLES.is_dir():
    pytest.skip("not a checkout: the examples are not here", allow_module_level=True)
sys.path.append(str(EXAMPLES))

import figures  # noqa: E402
import gallery  # noqa: E402

QUICK = figures.Settings(quick=True)


@pytest.fixture(scope="module")
def found() -> Any:
    """`found(name)`: an example's figures, computed once."""
    kept: dict[str, Any] = {}

    def compute(name: str) -> Any:
        if name not in kept:
            kept[name] = importlib.import_module(name).compute(QUICK)
        return kept[name]

    return compute


@pytest.mark.parametrize("name", gallery.EXAMPLES)
def test_every_example_reports_and_draws(name: str, found: Any, tmp_path: Path) -> None:
    from PIL import Image

    example = importlib.import_module(name)
    assert example.__doc__
    assert len(example.report(found(name)).splitlines()) > 2
    path = tmp_path / "picture.png"
    figures.save(example.draw(found(name)), path)
    assert path.stat().st_size < figures.LARGEST_BYTES
    pixels = np.asarray(Image.open(path).convert("L"))
    assert min(pixels.shape) > 300
    assert pixels.std() > 10  # not an empty sheet


def test_as_a_script(tmp_path: Path) -> None:
    path = tmp_path / "sizes.png"
    command = [sys.executable, str(EXAMPLES / "output_size.py"), "--quick", "--out", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "5x5" in done.stdout
    assert path.is_file()
    nowhere = str(tmp_path / "none" / "sizes.png")
    for wrong in (["--data", nowhere], ["--out", nowhere], ["--out", str(tmp_path / "a.svg")]):
        done = subprocess.run([*command, *wrong], capture_output=True, text=True)
        assert done.returncode != 0
        assert wrong[1] in done.stderr


def test_the_gallery_shows_every_picture_of_the_examples() -> None:
    page = (EXAMPLES.parent / "docs" / "gallery.md").read_text()
    for name in gallery.EXAMPLES:
        assert f"images/{name}.png" in page
        assert f"examples/{name}.py" in page
        picture = EXAMPLES.parent / "docs" / "images" / f"{name}.png"
        assert picture.stat().st_size < figures.LARGEST_BYTES


def test_full_connectivity(found: Any) -> None:
    values = found("full_connectivity")
    assert values["neuron"][32] == 3072  # the lecture's two figures
    assert values["neuron"][200] == 120_000
    assert values["window"] == 75
    # 200 x 200 x 10 neurons of 120,000 weights; of 75; ten filters of 75.
    assert values["layers"][200] == {
        "neurons": 400_000, "full": 48_000_000_000, "local": 30_000_000, "shared": 750,
    }  # fmt: skip


def test_output_size(found: Any) -> None:
    values = found("output_size")
    assert [case["output"] for case in values["cases"]] == [5, 3, 2, 7]
    assert [case["formula"] for case in values["cases"]] == [5, 3, Fraction(7, 3), 7]
    one, two, three, padded = (case["windows"] for case in values["cases"])
    assert one[0, 0] == 1
    assert one[3, 3] == 9
    assert two[2, 2] == 4
    assert three.tolist() == [[1] * 6 + [0]] * 6 + [[0] * 7]
    assert padded[0, 0] == 4
    assert values["shrinking"] == [32, 28, 24, 20, 16, 12, 8, 4]
    assert [row["padding"] for row in values["same"].values()] == [0, 1, 2, 3]
    assert {row["output"] for row in values["same"].values()} == {32}
    assert {row["by_name"] for row in values["same"].values()} == {32}


def test_parameters(found: Any) -> None:
    values = found("parameters")
    rows = {row["name"]: row for row in values["layers"]}
    assert all(row["parameters"] == row["formula"] for row in rows.values())
    assert rows["ten 5x5 filters"]["parameters"] == 760
    assert rows["ten 5x5 filters"]["output"] == (10, 32, 32)
    assert rows["AlexNet, conv1"]["parameters"] == 34_944
    assert rows["AlexNet, conv1"]["output"] == (96, 55, 55)
    assert rows["1x1, 64 to 32"]["parameters"] == 64 * 32 + 32
    stacks = values["stacks"]
    assert [row["sees"] for row in stacks.values()] == [3, 5, 5, 7, 7]
    weights = {sizes: row["parameters"] - 64 * len(sizes) for sizes, row in stacks.items()}
    assert weights[3, 3, 3] * 49 == weights[7,] * 27


def test_bottleneck(found: Any) -> None:
    values = found("bottleneck")
    assert values["output"] == (32, 56, 56)
    module = values["modules"]["3b"]
    assert module["input"] == (256, 28, 28)
    assert module["naive"]["multiply_adds"] == {
        "1x1": 28 * 28 * 256 * 128, "3x3": 28 * 28 * 256 * 192 * 9,
        "5x5": 28 * 28 * 256 * 96 * 25, "pool": 0,
    }  # fmt: skip
    assert module["reduced"]["multiply_adds"] == {
        "1x1": 28 * 28 * 256 * 128, "3x3": 28 * 28 * (256 * 128 + 128 * 192 * 9),
        "5x5": 28 * 28 * (256 * 32 + 32 * 96 * 25), "pool": 28 * 28 * 256 * 64,
    }  # fmt: skip
    assert module["naive"]["channels"] == 672
    assert module["reduced"]["channels"] == 480
    assert len(values["modules"]) == 9


def test_neuron_view(found: Any) -> None:
    values = found("neuron_view")
    row, col = importlib.import_module("neuron_view").PLACE
    assert values["maps"].shape == (6, 28, 28)
    np.testing.assert_allclose(values["by_hand"], values["maps"][:, row, col], rtol=1e-5)
    assert values["pixels_seen"] == 25
    assert values["values_seen"] == values["under_the_filter"] == 75


def test_receptive_field(found: Any) -> None:
    layers = found("receptive_field")["layers"]
    # 1 + 2 (1 + 1), then one more for each pooling at the step so far, and so on.
    known = {"conv1_2": 5, "pool1": 6, "conv2_2": 14, "conv3_3": 40, "conv4_3": 92, "conv5_3": 196}
    known["pool5"] = 212
    assert {name: layers[name]["arithmetic"] for name in known} == known
    for name, layer in layers.items():
        side = layer["arithmetic"]
        assert layer["box"][2:] == (side, side), name
        assert layer["pixels"] == side * side, name
        assert layer["window_of_mass"] <= side


def test_pooling(found: Any) -> None:
    values = found("pooling")["slice"]
    assert values["max"].tolist() == [[6, 8], [3, 4]]
    assert values["average"].tolist() == [[3.25, 5.25], [2, 2]]
    assert np.argwhere(values["grad_max"]).tolist() == [[1, 1], [1, 3], [2, 0], [3, 3]]
    assert (values["grad_average"] == 0.25).all()


def test_activation_maps_without_data(found: Any) -> None:
    values = found("activation_maps")
    assert values["filters"].shape == (6, 1, 5, 5)
    assert [maps.shape for maps in values["maps"].values()] == [
        (6, 28, 28), (6, 14, 14), (6, 10, 10), (6, 5, 5),
    ]  # fmt: skip
    assert sum(p for _, p in values["classes"]) <= 1 + 1e-6


def test_activation_maps_of_published_weights() -> None:
    folder = shared_data("checkpoints/googlenet").parents[1]
    values = importlib.import_module("activation_maps").compute(figures.Settings(folder))
    assert values["filters"].shape == (64, 3, 7, 7)
    assert values["resnet20"].shape == (16, 3, 3, 3)
    assert values["classes"][0][0] == "military uniform"  # what the photo shows
    mean, score = values["score"]
    assert mean == pytest.approx(score, rel=1e-4)


def test_vgg_memory(found: Any) -> None:
    values = found("vgg_memory")
    layers = {layer["name"]: layer for layer in values["layers"]}
    assert len(layers) == 1 + 13 + 5 + 3
    assert layers["conv1_1"]["values"] == 224 * 224 * 64  # the slide's 3.2 M
    assert layers["conv1_1"]["parameters"] == 9 * 3 * 64 + 64
    assert layers["pool5"]["values"] == 7 * 7 * 512
    assert layers["fc6"]["parameters"] == 7 * 7 * 512 * 4096 + 4096
    maps = 64 * 224**2 * 2 + 128 * 112**2 * 2 + 256 * 56**2 * 3 + 512 * 28**2 * 3 + 512 * 14**2 * 3
    pools = 64 * 112**2 + 128 * 56**2 + 256 * 28**2 + 512 * 14**2 + 512 * 7**2
    assert values["values"] == 3 * 224**2 + maps + pools + 2 * 4096 + 1000
    assert round(4 * values["values"] / 1e6) == 61
    assert values["with_relu"] == values["values"] + maps + 2 * 4096
    assert values["parameters"] == 138_357_544


def test_fully_convolutional(found: Any) -> None:
    values = found("fully_convolutional")
    full, averaged = (sum(layers.values()) for layers in values["heads"].values())
    assert full == 25088 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000
    assert averaged == 512 * 1000 + 1000
    assert values["difference"] < 1e-5 * values["largest"]
    assert values["accuracy"] > 0.5  # eight classes: 0.125 by guessing


def test_highway_gates(found: Any) -> None:
    values = found("highway_gates")
    assert values["mean_gates"].shape == (values["depths"][-1] - 2, 50)  # between input and output
    assert values["start"] == pytest.approx(1 / (1 + math.exp(4)), rel=1e-6)
    assert ((values["mean_gates"] > 0) & (values["mean_gates"] < 1)).all()
    assert max(values["accuracy"]["highway"]) > 0.5


def test_all_convolutional(found: Any) -> None:
    networks = found("all_convolutional")["networks"]
    ours = fc.summary(fc.models.all_cnn_c(), (1, 3, 32, 32))
    assert networks["All-CNN-C"]["parameters"] == ours.parameters == 1_369_738
    assert networks["All-CNN-C"]["multiply_adds"] == ours.multiply_adds
    assert networks["All-CNN-C"]["parameters"] == networks["ConvPool-CNN-C"]["parameters"]
    assert networks["Base-C"]["parameters"] == networks["Strided-CNN-C"]["parameters"]
    for row in networks.values():
        assert row["sizes"] == [32, 16, 8, 6, 1]


def test_bars_have_the_direction_of_their_class() -> None:
    from small_images import DIRECTIONS, bars

    data = bars(800, seed=5)
    weight = np.where(data.images[:, 0] > 200, 1.0, 0.0)
    total = weight.sum(axis=(1, 2), keepdims=True)
    rows, cols = (
        axis - (axis * weight).sum(axis=(1, 2), keepdims=True) / total
        for axis in np.indices(weight.shape[1:])[:, None]
    )
    across, both, down = (
        (weight * product).sum(axis=(1, 2)) for product in (cols**2, cols * rows, rows**2)
    )
    for label in range(DIRECTIONS):
        of_class = data.labels == label
        # Direction of the largest second moment; noise has none on average.
        difference = (across - down)[of_class].sum()
        angle = 0.5 * np.arctan2(2 * both[of_class].sum(), difference)
        apart = (angle - np.pi * label / DIRECTIONS) % np.pi
        assert min(apart, np.pi - apart) < np.radians(3)


def test_settings_find_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    assert figures.Settings(tmp_path).find("mnist") == tmp_path / "mnist"
    assert figures.Settings(tmp_path).find("cifar10") is None
    assert figures.Settings().find("mnist") is None
