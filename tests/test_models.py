"""The networks and the commands that use them."""

from __future__ import annotations

import argparse

import fastconv as fc
import numpy as np
import pytest
from fastconv.checkpoint import read_checkpoint
from fastconv.cli import summary as summary_command
from fastconv.cli import train as train_command
from fastconv.graph import Graph
from fastconv.models import (
    MODELS,
    cifar_plain,
    cifar_resnet,
    find,
    googlenet,
    lenet5,
    vgg11,
    vgg16,
    vgg19,
)
from fastconv.models.googlenet import CAFFE_LAYERS
from support import shared_data


def write_mnist(folder):
    from test_data import write_mnist as write

    write(folder, train=70, test=20)


def command(*arguments):
    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    for module in (summary_command, train_command):
        module.add_parser(subparsers)
    args = parser.parse_args([str(a) for a in arguments])
    return args.run(args)


@pytest.mark.parametrize("variant", ["relu", "paper"])
@pytest.mark.parametrize("size", [28, 32])
def test_lenet5(variant, size):
    model = lenet5(variant=variant)
    assert model.num_parameters == 61_706
    x = np.random.default_rng(0).standard_normal((3, 1, size, size)).astype(np.float32)
    assert model(x).shape == model.output_shape(x.shape) == (3, 10)
    assert model(x[0]).shape == (10,)


def test_lenet5_on_28_is_lenet5_on_the_padded_32():
    model = lenet5(seed=1).eval()
    x = np.random.default_rng(0).standard_normal((2, 1, 28, 28)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_allclose(model(x), model(padded), atol=1e-5)


def test_lenet5_errors():
    with pytest.raises(ValueError, match=r"\(1, 28, 28\) or \(1, 32, 32\).*\(1, 1, 30, 30\)"):
        lenet5()(np.zeros((1, 1, 30, 30), np.float32))
    with pytest.raises(ValueError, match="variant='old'"):
        lenet5(variant="old")


def test_googlenet_figures():
    model = googlenet(aux_logits=False, variant="torchvision")
    assert model.num_parameters == 6_624_904
    table = fc.summary(model, (1, 3, 224, 224))
    assert f"{table.multiply_adds / 1e9:.1f}" == "1.5"
    # The paper's, by BVLC's weights: table 1's rows have these parameters.
    paper = googlenet(aux_logits=False)
    assert paper.num_parameters == 6_998_552
    by_module = {
        name: layer.num_parameters for name, layer in paper.named_layers() if name[-2:-1] in "345"
    }
    assert by_module["inception3a"] == 163_696
    assert by_module["inception5b"] == 1_444_080


def test_googlenet_in_training_gives_its_heads_and_takes_their_gradients(rng):
    model = googlenet(num_classes=5, variant="torchvision", seed=0)
    x = rng.standard_normal((2, 3, 64, 64)).astype(np.float32)
    y = model(x)
    assert [part.shape for part in y] == [(2, 5)] * 3
    assert model.output_shape(x.shape) == ((2, 5),) * 3
    ones = np.ones((2, 5), np.float32)
    assert model.backward((ones, None, ones)).shape == x.shape
    assert not model.aux1.fc2.weight.grad.any()
    assert model.aux2.fc2.weight.grad.any()
    with pytest.raises(ValueError, match=r"has 1 gradient, but a tuple of 3 .*aux1's, aux2's"):
        model.backward(ones)
    assert model.eval()(x).shape == model.output_shape(x.shape) == (2, 5)
    assert model(x[0]).shape == (5,)
    assert [part.shape for part in model.train()(x[0])] == [(5,)] * 3
    assert model.backward((ones[0],) * 3).shape == x.shape[1:]


def test_googlenet_without_heads_is_an_ordinary_network(rng):
    model = googlenet(num_classes=5, aux_logits=False)
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    y = model(x)
    assert y.shape == (1, 5)
    assert model.backward(np.ones_like(y), need_input=False) is None
    assert "aux1" not in model.state_dict()


def test_a_plan_of_googlenet_leaves_out_the_heads_in_either_mode(rng):
    model = googlenet(num_classes=5)
    shape = (1, 3, 224, 224)
    x = rng.standard_normal(shape).astype(np.float32)
    plan = fc.compile(model, shape)
    assert not any(row.layer.startswith("aux") for row in plan.rows)
    np.testing.assert_allclose(plan(x), model.eval()(x), rtol=1e-4, atol=1e-5)
    assert len(Graph.of(model, shape, training=True).outputs) == 3


def test_googlenet_errors():
    with pytest.raises(ValueError, match="googlenet: variant='caffe', but 'paper' or 'torch"):
        googlenet(variant="caffe")
    with pytest.raises(ValueError, match="googlenet: num_classes=0, but a whole number"):
        googlenet(num_classes=0)
    with fc.init.skipped():
        model = googlenet(num_classes=5)
    outputs = model(np.zeros((1, 3, 224, 224), np.float32))
    with pytest.raises(ValueError, match="GoogLeNet: backward: the logits' gradient is None, but"):
        model.backward((None, *outputs[1:]))


def test_googlenet_has_a_place_for_each_of_caffes_layers():
    layers = {name for name, _ in googlenet().named_layers()}
    assert set(CAFFE_LAYERS.values()) <= layers
    assert len(set(CAFFE_LAYERS.values())) == len(CAFFE_LAYERS) == 64


@pytest.mark.parametrize(
    ("depth", "parameters", "millions"),
    [(20, 269_722, 41), (32, 464_154, 69), (44, 658_586, 97), (56, 853_018, 125),
     (110, 1_727_962, 253)],
)  # fmt: skip
@pytest.mark.parametrize("make", [cifar_resnet, cifar_plain])
def test_cifar_networks_have_the_papers_figures(make, depth, parameters, millions):
    model = make(depth)
    assert model.num_parameters == parameters
    assert round(fc.summary(model, (1, 3, 32, 32)).multiply_adds / 1e6) == millions
    convolutions = [n for n, p in model.named_parameters() if p.data.ndim == 4]
    assert len(convolutions) + 1 == depth


def test_the_first_blocks_pass_on_what_they_get_where_their_body_gives_nothing(rng):
    """Option A: every other pixel, as many channels of zeros before as after."""
    model = cifar_resnet(8, seed=0)
    block, x = model.layer2[0].eval(), rng.standard_normal((2, 16, 8, 8)).astype(np.float32)
    block.bn2.load_state_dict({**block.bn2.state_dict(), "weight": np.zeros(32, np.float32)})
    wanted = np.zeros((2, 32, 4, 4), np.float32)
    wanted[:, 8:24] = np.maximum(x[:, :, ::2, ::2], 0)
    np.testing.assert_array_equal(block(x), wanted)


def test_cifar_networks_of_other_depths_by_name():
    assert find("cifar_plain8").build().num_parameters == cifar_resnet(8).num_parameters
    for depth in (0, 2, 9, 21):
        with pytest.raises(ValueError, match=f"cifar_resnet: depth={depth}, but "):
            find(f"cifar_resnet{depth}").build()
    with pytest.raises(ValueError, match=r"depth=21, but 6 n .* such as 20"):
        cifar_resnet(21)
    with pytest.raises(ValueError, match="cifar_plain: num_classes=-1, but"):
        cifar_plain(20, num_classes=-1)
    with pytest.raises(ValueError, match="unknown model 'cifar_resnet'; did you mean"):
        find("cifar_resnet")


@pytest.mark.parametrize(("make", "count"), [(vgg11, 11), (vgg16, 16), (vgg19, 19)])
def test_vgg_has_a_place_for_each_of_caffes_layers(make, count):
    with fc.init.skipped():
        model = make()
    layers, places = dict(model.named_layers()), list(model.caffe_layers.values())
    assert len({*places}) == len(places) == count
    assert sum(layers[place].num_parameters for place in places) == model.num_parameters
    assert layers[model.caffe_layers["conv5_1"]].in_channels == 512
    assert layers[model.caffe_layers["conv2_1"]].in_channels == 64


def test_seeds():
    one, same, other = lenet5(seed=3), lenet5(seed=3), lenet5(seed=4)
    np.testing.assert_array_equal(one.c1.weight.data, same.c1.weight.data)
    assert not np.array_equal(one.c1.weight.data, other.c1.weight.data)


def test_find_suggests():
    assert find("lenet5") is MODELS["lenet5"]
    with pytest.raises(ValueError, match="did you mean lenet5"):
        find("lenet")
    with pytest.raises(ValueError, match="known: "):
        find("zzz")


@pytest.mark.parametrize("name", MODELS)
def test_catalogue_shapes(name):
    entry = MODELS[name]
    with fc.init.skipped():
        model = entry.build().eval()
    assert model.output_shape((2, *entry.image_shape))[0] == 2


def test_summary_command(capsys):
    assert command("summary", "lenet5", "--batch", 2, "--input", "1,32,32") == 0
    out = capsys.readouterr().out
    assert "61,706" in out
    assert "(2, 1, 32, 32)" in out


def test_train_command(tmp_path, capsys):
    write_mnist(tmp_path)
    arguments = ["train", "lenet5", "--data", tmp_path, "--batch-size", 16]
    files = ["--save", tmp_path / "w.safetensors", "--history", tmp_path / "h.csv"]
    assert command(*arguments, "--epochs", 2, *files) == 0
    captured = capsys.readouterr()
    assert "of 20 test images right after 2 epochs" in captured.out
    assert "epoch 2/2" in captured.err
    assert len((tmp_path / "h.csv").read_text().splitlines()) == 3
    assert sum(a.size for a in read_checkpoint(tmp_path / "w.safetensors").values()) == 61_706


def test_train_command_resumes(tmp_path):
    write_mnist(tmp_path)
    arguments = ["train", "lenet5", "--data", tmp_path, "--batch-size", 16, "--quiet"]
    run = [*arguments, "--epochs", 2, "--checkpoint", tmp_path / "run.safetensors"]
    command(*run, "--save", tmp_path / "a.safetensors")
    command(*run, "--resume", "--save", tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_train_command_errors_come_before_the_training(tmp_path):
    for options, text in (
        (["--save", tmp_path / "w.npz"], r"a name in \.safetensors"),
        (["--save", tmp_path / "none" / "w.safetensors"], "is missing or cannot be written"),
        (["--resume"], "needs --checkpoint"),
    ):
        with pytest.raises(ValueError, match=text):
            command("train", "lenet5", "--data", tmp_path, *options)
    with pytest.raises(FileNotFoundError, match="train-images"):
        command("train", "lenet5", "--data", tmp_path)


@pytest.mark.full
def test_lenet5_learns_mnist(tmp_path, capsys):
    """The recipe: at least 98.9 % of the 10,000 test images."""
    command("train", "lenet5", "--data", shared_data("mnist"), "--quiet")
    assert float(capsys.readouterr().out.split()[1]) >= 98.9
