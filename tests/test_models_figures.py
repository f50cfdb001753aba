"""Every network of the command line: the papers' figures, shapes, modes, compiled form."""

from __future__ import annotations

from pathlib import Path

import fastconv as fc
import numpy as np
import pytest
from fastconv import init
from fastconv.models import MODELS, find
from support import normals

L = fc.layers

# Name -> parameters, multiply-adds of one image as printed (digits and unit), and what an element
# of the last maps before the classifier sees.
FIGURES = {
    "lenet5": (61_706, "0.42 M", 32),
    "caffe_lenet": (431_080, "2.29 M", 16),
    "cifar10_quick": (145_578, "12.4 M", 43),
    "alexnet": (60_965_224, "724 M", 195),
    "alexnet_torchvision": (61_100_840, "714 M", 195),
    "zfnet": (62_357_608, "1.17 G", 171),
    "zfnet_lecture": (107_627_624, "2.48 G", 171),
    "vgg11": (132_863_336, "7.61 G", 150),
    "vgg13": (133_047_848, "11.31 G", 156),
    "vgg16": (138_357_544, "15.47 G", 212),
    "vgg19": (143_667_240, "19.63 G", 268),
    "googlenet": (13_378_280, "1.6 G", 715),
    "googlenet_torchvision": (13_004_888, "1.5 G", 379),
    "resnet18": (11_689_512, "1.81 G", 435),
    "resnet34": (21_797_672, "3.66 G", 899),
    "resnet50": (25_557_032, "4.09 G", 427),
    "resnet101": (44_549_160, "7.80 G", 971),
    "resnet152": (60_192_808, "11.51 G", 1451),
    "all_cnn_a": (1_254_250, "181 M", 27),
    "all_cnn_b": (1_300_618, "200 M", 27),
    "all_cnn_c": (1_369_738, "271 M", 27),
    "alphago_policy": (3_882_793, "1.40 G", 27),
    "cifar_highway19": (2_262_714, "349 M", 88),
    "cifar_plain20": (269_722, "41 M", 81),
    "cifar_plain32": (464_154, "69 M", 137),
    "cifar_plain44": (658_586, "97 M", 193),
    "cifar_plain56": (853_018, "125 M", 249),
    "cifar_plain110": (1_727_962, "253 M", 501),
    "cifar_resnet20": (269_722, "41 M", 81),
    "cifar_resnet32": (464_154, "69 M", 137),
    "cifar_resnet44": (658_586, "97 M", 193),
    "cifar_resnet56": (853_018, "125 M", 249),
    "cifar_resnet110": (1_727_962, "253 M", 501),
    "highway_mlp10": (80_560, "0.08 M", None),
    "highway_mlp20": (131_560, "0.13 M", None),
    "highway_mlp50": (284_560, "0.28 M", None),
    "highway_mlp100": (539_560, "0.53 M", None),
}
# Smaller images that a network takes too.
SMALLER = {
    "alexnet_torchvision": (3, 63, 63),
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), (3, 32, 32)),
    **dict.fromkeys(("googlenet", "googlenet_torchvision"), (3, 64, 64)),
    **{f"resnet{depth}": (3, 40, 40) for depth in (18, 34, 50, 101, 152)},
}  # fmt: skip


def built(name):
    with init.skipped():
        return MODELS[name].build()


def printed(value, like):
    digits = len(like.split()[0].partition(".")[2])
    unit = {"M": 1e6, "G": 1e9}[like[-1]]
    return f"{value / unit:.{digits}f} {like[-1]}"


def test_every_network_has_its_figures():
    assert FIGURES.keys() == MODELS.keys()


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name):
    parameters, multiply_adds, sees = FIGURES[name]
    model, shape = built(name).eval(), (1, *MODELS[name].image_shape)
    table = fc.summary(model, shape)
    assert table.parameters == model.num_parameters == parameters
    assert printed(table.multiply_adds, multiply_adds) == multiply_adds
    fields = [row.receptive_field for row in table.rows if len(row.output_shape) == 4]
    known = [field for field in fields if None not in field]
    assert known[-1] == ((sees, sees) if sees else (1, 1))
    text = str(table)
    assert f"{parameters:,}" in text
    assert f"{table.multiply_adds:,}" in text


def test_the_documents_table_has_these_figures():
    path = Path(__file__).parents[1] / "docs" / "models.md"
    lines = [line.split("|")[1:] for line in path.read_text().splitlines() if "| `" in line]
    rows = {cells[0].strip(" `"): [cell.strip() for cell in cells[1:5]] for cells in lines}
    assert len(rows) > 25
    for name, cells in rows.items():
        parameters, multiply_adds, sees = FIGURES[name]
        image = "x".join(map(str, MODELS[name].image_shape))
        assert cells == [image, f"{parameters:,}", multiply_adds, str(sees or "all")], name


@pytest.mark.parametrize("name", FIGURES)
def test_a_summary_is_of_the_whole_batch_and_adds_up(name):
    model, image = built(name), MODELS[name].image_shape
    one, three = (fc.summary(model, (n, *image)) for n in (1, 3))
    assert sum(row.parameters for row in one.rows) == one.parameters
    assert three.multiply_adds == 3 * one.multiply_adds
    assert three.forward_bytes == 3 * one.forward_bytes
    convolutions = [row for row in one.rows if row.layer.endswith("Conv2d")]
    outputs = sum(4 * int(np.prod(row.output_shape)) for row in convolutions)
    assert one.forward_bytes >= outputs
    assert one.training_bytes > 0


def kept(model, x):
    """Bytes of the arrays that a training call leaves in the layers, each once."""
    model.train()(x)
    arrays = {}
    weights = {id(parameter.data) for parameter in model.parameters()}
    for _, layer in model.named_layers():
        for array in layer._saved or ():
            while isinstance(getattr(array, "base", None), np.ndarray):
                array = array.base
            if isinstance(array, np.ndarray) and id(array) not in weights:
                arrays[id(array)] = array
    return sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize(
    "name",
    ["lenet5", "cifar_resnet20", "cifar_highway19", "highway_mlp10", "all_cnn_c",
     "alphago_policy", "googlenet", "googlenet_torchvision", "cifar10_quick", "resnet18",
     "alexnet", "alexnet_torchvision", "vgg11", "zfnet"],
)  # fmt: skip
def test_training_memory_is_what_the_layers_keep(name):
    model, shape = built(name), (1, *MODELS[name].image_shape)
    assert fc.summary(model, shape).training_bytes == kept(model, np.ones(shape, np.float32))


def test_vggs_activations_are_the_sum_of_its_layers_outputs():
    """15.2 M values with the image, 61 MB, not the slide's 24 M; with ReLU's outputs apart 28.8 M.

    (torchvision's adaptive pool, which does nothing at this size, makes an output of its own.)"""
    table = fc.summary(built("vgg16"), (1, 3, 224, 224))
    sizes = {row.path: int(np.prod(row.output_shape)) for row in table.rows}
    values = table.forward_bytes // 4 - sizes["avgpool"] + 3 * 224 * 224
    relu = sum(sizes[row.path] for row in table.rows if row.layer == "ReLU")
    assert f"{values / 1e6:.1f} M, {4 * values / 1e6:.0f} MB" == "15.2 M, 61 MB"
    assert f"{(values + relu) / 1e6:.1f} M" == "28.8 M"
    assert table.rows[1].forward_bytes == 4 * 64 * 224 * 224


def test_a_summary_says_which_parameters_its_mode_does_not_run():
    model = built("googlenet")
    training, evaluation = (fc.summary(model.train(mode), (1, 3, 224, 224)) for mode in (1, 0))
    assert training.unused_parameters == 0
    heads = model.aux1.num_parameters + model.aux2.num_parameters
    assert evaluation.unused_parameters == heads
    assert f"{heads:,} parameters are of layers not run in this mode" in str(evaluation)
    paths = [row.path for row in training.rows]
    head = training.rows[paths.index("aux1.conv.conv")]
    assert head.output_shape == (1, 128, 4, 4)
    assert head.receptive_field == training.rows[paths.index("aux1.pool")].receptive_field
    assert training.multiply_adds - evaluation.multiply_adds == sum(
        row.multiply_adds for row in training.rows if row.path.startswith("aux")
    )


def cases():
    for name, (parameters, *_) in FIGURES.items():
        long = "resnet34", "resnet101", "resnet152", "cifar_resnet110", "highway_mlp100"
        large = parameters > 61e6 or name in long
        yield pytest.param(name, marks=pytest.mark.full if large else ())


@pytest.mark.parametrize("name", [*cases()])
def test_a_model_compiled_is_the_model_in_eval_mode(name, rng):
    with init.seeded(1):
        model = MODELS[name].build()
    for _, layer in model.named_layers():
        if isinstance(layer, L.BatchNorm2d):  # not what folding cannot get wrong
            layer.running_mean[...] = 0.1 * normals(layer.running_mean.shape, rng)
            layer.running_var[...] = 1 + rng.random(layer.running_var.shape, np.float32)
        elif getattr(layer, "bias", None) is not None:
            layer.bias.data += np.float32(0.05) * normals(layer.bias.shape, rng)
    model.eval()
    image = SMALLER.get(name, MODELS[name].image_shape)
    x = normals((2, *image), rng)
    y = model(x)
    assert y.shape == model.output_shape(x.shape)
    assert np.ptp(y) > 0
    plan = fc.compile(model, x.shape)
    assert np.abs(plan(x) - y).max() <= 1e-4 * np.abs(y).max()
    assert plan.multiply_adds == fc.summary(model, x.shape).multiply_adds
    single = model(x[1])
    assert np.array_equal(single, y[1])


@pytest.mark.parametrize("name", ["resnet18", "all_cnn_c", "cifar_highway7", "highway_mlp3"])
def test_seeds_make_the_same_weights(name):
    build = find(name).build
    one, same, other = (build(seed=seed).state_dict() for seed in (3, 3, 4))
    for key in one:
        np.testing.assert_array_equal(one[key], same[key])
    assert any(not np.array_equal(one[key], other[key]) for key in one)


def test_skipped_weights_are_zero_and_others_are_not():
    with init.skipped():
        model = fc.models.cifar_highway(7)
        assert not init.he_uniform((3, 4)).any()
    assert not model.conv1.weight.data.any()
    assert (model.stage1[0].gate.bias.data == -2).all()
    assert init.he_normal((3, 4)).all()
    weights = fc.models.cifar_highway(7, seed=1).state_dict()
    model.load_state_dict(weights)
    np.testing.assert_array_equal(model.state_dict()["conv1.weight"], weights["conv1.weight"])
