"""``python -m fastconv classify`` with small networks and synthetic files of Caffe's."""

from __future__ import annotations

import builtins
from dataclasses import replace

import fastconv as fc
import numpy as np
import pytest
from checkpoint_files import blob, caffemodel
from fastconv.__main__ import main
from fastconv.data import PREPROCESSINGS, Preprocessing
from fastconv.models import alexnet, caffe_lenet, cifar10_quick, googlenet, vgg16, vgg19


def command(capsys, *arguments):
    """(status, the first line, {image: [(percent, number, name)]}, the error output)."""
    status = main(["classify", *map(str, arguments)])
    captured = capsys.readouterr()
    head, *lines = captured.out.splitlines() or [""]
    found = {}
    for line in lines:
        if not line.startswith("  "):
            rows = found.setdefault(line, [])
            continue
        percent, _, number, name = line.split(maxsplit=3)
        rows.append((float(percent), int(number), name))
    return status, head, found, captured.err


def constant_net(network, class_number, bias=5.0):
    """A network whose answer does not depend on the image."""
    model = network(seed=0)
    last = model.ip2
    last.weight.data[...] = 0
    last.bias.data[...] = 0
    last.bias.data[class_number] = bias
    return model


def test_classify(pictures, tmp_path, capsys):
    images = [pictures(f"{n}.png", np.full((28, 28), n)) for n in range(10)]
    weights = tmp_path / "w.safetensors"
    constant_net(caffe_lenet, 7).save_weights(weights)
    status, head, found, _ = command(
        capsys, "caffe_lenet", *images, "--weights", weights, "--top", 3
    )
    assert status == 0
    assert head.endswith("images as for 'caffe_mnist'")
    assert list(found) == [str(image) for image in images]  # more than one batch
    first = 100 * np.exp(5) / (np.exp(5) + 9)
    for rows in found.values():
        assert [row[1:] for row in rows] == [(7, "7"), (0, "0"), (1, "1")]
        assert rows[0][0] == pytest.approx(first, abs=0.006)


def test_what_the_network_sees(pictures, tmp_path, capsys):
    """A network that adds its input up: the mean image and the deviation take effect."""
    model = cifar10_quick(seed=0)
    state = {name: np.zeros_like(value) for name, value in model.state_dict().items()}
    for name in ("conv1", "conv2", "conv3", "ip1", "ip2"):
        state[f"{name}.weight"][0, 0] = 0.1
    state["conv1.bias"][0] = 1.0  # so that no ReLU cuts anything off
    np.savez(tmp_path / "w.npz", **state)
    image = pictures("a.png", np.full((32, 32, 3), 100))
    mean = np.full((3, 40, 36), 60, np.float32)
    mean[:, 4:36, 2:34] = 100  # its middle
    (tmp_path / "mean.binaryproto").write_bytes(blob(mean, old=True))
    np.save(tmp_path / "mean.npy", mean)
    arguments = ["cifar10_quick", image, "--weights", tmp_path / "w.npz"]

    def certainty(*options):
        status, _, found, _ = command(capsys, *arguments, *options)
        assert status == 0
        assert found[str(image)][0][2] == "airplane"
        return found[str(image)][0][0]

    black = certainty("--mean", "100,100,100")
    assert black == certainty("--mean", 100)
    assert black == certainty("--mean", tmp_path / "mean.binaryproto")
    assert black == certainty("--mean", tmp_path / "mean.npy")
    assert black < certainty("--mean", 90, "--std", 2) < certainty("--mean", 90)
    # Red minus 125.307, all else 0, gives less than black.
    assert certainty() < black
    assert certainty("--preprocessing", "cifar10") != certainty()


@pytest.mark.parametrize("heads", [False, True])
def test_caffe_weights_are_recognised(pictures, tmp_path, capsys, heads):
    """A caffemodel of random numbers, with the heads for training and without."""
    model = googlenet(num_classes=3, aux_logits=heads, seed=0)
    path = tmp_path / "net.caffemodel"
    path.write_bytes(caffemodel(model))
    (tmp_path / "names.txt").write_text("cat\ndog\ncow\n")
    image = pictures("a.png", np.random.default_rng(0).integers(0, 256, (260, 300, 3)))
    status, head, found, _ = command(
        capsys, "googlenet", image, "--weights", path, "--labels", tmp_path / "names.txt"
    )
    assert status == 0
    assert head.endswith("images as for 'caffe'")
    expected = 100 * fc.softmax(model.eval()(PREPROCESSINGS["caffe"](image)[None]))[0]
    rows = found[str(image)]
    assert [row[2] for row in rows] == [("cat", "dog", "cow")[row[1]] for row in rows]
    for percent, number, _ in rows:
        assert percent == pytest.approx(expected[number], abs=0.006)


@pytest.mark.parametrize(
    ("make", "depth"), [(vgg16, 16), pytest.param(vgg19, 19, marks=pytest.mark.full)]
)
def test_vgg_as_its_authors_published_it(tmp_path, monkeypatch, make, depth):
    """A caffemodel of a narrow VGG: Caffe's names for our layers in their order."""
    monkeypatch.setattr("fastconv.models.vgg.WIDTHS", (2, 3, 4, 5, 2))
    with fc.init.skipped():
        model, other = make(num_classes=2), make(num_classes=2)
    rng = np.random.default_rng(0)
    for value in model.state_dict().values():
        value[...] = rng.standard_normal(value.shape, np.float32)
    raw = caffemodel(model)
    for name in ("conv1_1", "conv5_3" if depth == 16 else "conv5_4", "fc6", "fc8"):
        assert name.encode() in raw
    (tmp_path / "vgg.caffemodel").write_bytes(raw)
    other.load_weights(tmp_path / "vgg.caffemodel")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], value)


@pytest.mark.full
def test_alexnet_as_bvlc_published_it(pictures, tmp_path, capsys):
    """244 MB: groups in conv2, conv4 and conv5, response norm with Caffe's constants."""
    model = alexnet(response_norm="caffe", seed=0)
    path = tmp_path / "bvlc_alexnet.caffemodel"
    path.write_bytes(caffemodel(model))
    assert fc.read_checkpoint(path)["conv2.weight"].shape == (256, 48, 5, 5)
    image = pictures("a.png", np.random.default_rng(0).integers(0, 256, (260, 300, 3)))
    status, head, found, _ = command(capsys, "alexnet", image, "--weights", path)
    assert status == 0
    assert head.endswith("images as for 'caffe'")
    prepare = replace(PREPROCESSINGS["caffe"], size=(227, 227))
    expected = 100 * fc.softmax(model.eval()(prepare(image)[None]))[0]
    for percent, number, _ in found[str(image)]:
        assert percent == pytest.approx(expected[number], abs=0.006)
    assert [row[1] for row in found[str(image)]] == np.argsort(-expected)[:5].tolist()


def test_images_that_cannot_be_read_are_named_and_the_rest_classified(pictures, tmp_path, capsys):
    weights = tmp_path / "w.safetensors"
    constant_net(caffe_lenet, 1).save_weights(weights)
    good = pictures("a.png", np.zeros((28, 28)))
    (tmp_path / "b.png").write_bytes(b"no image")
    status, _, found, error = command(
        capsys, "caffe_lenet", tmp_path / "b.png", good, tmp_path / "c.png", "--weights", weights
    )
    assert status == 2
    assert list(found) == [str(good)]
    assert "b.png cannot be read" in error
    assert "c.png" in error


def test_errors_of_the_command(pictures, tmp_path, capsys):
    image = pictures("a.png", np.zeros((28, 28)))
    weights = tmp_path / "w.safetensors"
    caffe_lenet(seed=0).save_weights(weights)
    for arguments, text in (
        (["lenet5", image, "--weights", weights], "missing: c1.weight"),
        (["caffe_lenett", image, "--weights", weights], "did you mean caffe_lenet"),
        (["caffe_lenet", image, "--weights", tmp_path / "none.npz"], "none.npz"),
        (["caffe_lenet", image, "--weights", image], "ends in '.png', but what is read"),
        (["caffe_lenet", image, "--weights", weights, "--top", 0], "--top 0: at least 1"),
        (["caffe_lenet", image, "--weights", weights, "--mean", "a,b"], "--mean a,b: numbers"),
        (["caffe_lenet", image, "--weights", weights, "--preprocessing", "x"], "known are torch"),
        (["caffe_lenet", image, "--weights", weights, "--mean", "1,2"], "mean has shape (2,)"),
        (["caffe_lenet", image, "--weights", weights, "--labels", tmp_path / "l"], "No such file"),
    ):
        status, _, found, error = command(capsys, *arguments)
        assert (status, found) == (2, {})
        assert text in error
    (tmp_path / "l.txt").write_text("one\ntwo\n")
    options = ["--weights", weights, "--labels", tmp_path / "l.txt"]
    status, _, _, error = command(capsys, "caffe_lenet", image, *options)
    assert status == 2
    assert "misshapen: ip2.weight is (10, 500), but the model has (2, 500)" in error
    np.save(tmp_path / "small.npy", np.zeros((1, 20, 20), np.float32))
    options = ["--weights", weights, "--mean", tmp_path / "small.npy"]
    status, _, _, error = command(capsys, "caffe_lenet", image, *options)
    assert status == 2
    assert "small.npy: (1, 20, 20), but (C, 28, 28) is needed" in error


def without_pillow(monkeypatch):
    real = builtins.__import__

    def refuse(name, *arguments, **options):
        if name.split(".")[0] == "PIL":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_pillow(monkeypatch, tmp_path, capsys):
    without_pillow(monkeypatch)
    with pytest.raises(ImportError, match=r"Preprocessing needs Pillow: pip install pillow"):
        Preprocessing((4, 4))("x.png")
    with pytest.raises(ImportError, match="load_image_folder needs Pillow"):
        fc.data.load_image_folder(tmp_path, size=4)
    assert main(["classify", "lenet5", "x.png", "--weights", "x.npz"]) == 2
    assert "classify needs Pillow: pip install pillow" in capsys.readouterr().err
