"""Weights that others trained give the results that were published for them.

The data lie outside the repository (tests/support.py); where they are missing, tests are skipped.
"""

from __future__ import annotations

import gzip

import fastconv as fc
import numpy as np
import pytest
from fastconv.__main__ import main
from support import shared_data


@pytest.fixture(scope="module")
def lossless_cifar10():
    """The first 1,000 test images of CIFAR-10, pixels 0 to 255, and their labels."""
    path = shared_data("cifar10/lossless_test_first1000.bin.gz")
    records = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8).reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32).astype(np.float32), records[:, 0]


def classes_of(model, images):
    return np.concatenate(
        [model(images[i : i + 250]).argmax(axis=1) for i in range(0, len(images), 250)]
    )


def resnet20_classes(path, images):
    model = fc.models.cifar_resnet(20)
    model.load_weights(path)
    mean, std = (
        np.array(values, np.float32)[:, None, None]
        for values in (fc.data.imagenet.MEAN, fc.data.imagenet.STD)
    )
    return classes_of(model.eval(), (images / 255 - mean) / std)


def test_resnet20_of_the_pytorch_file(lossless_cifar10):
    """8.5 % errors; published are 8.27 % on all 10,000 images."""
    path = shared_data("checkpoints/cifar_resnet20/resnet20-12fca82f.th")
    assert all(name.startswith("module.") for name in fc.read_checkpoint(path))
    images, labels = lossless_cifar10
    found = resnet20_classes(path, images)
    assert np.count_nonzero(found != labels) == pytest.approx(85, abs=1)


def test_resnet20_by_the_command(lossless_cifar10, tmp_path, capsys):
    """The same classes for images as files as for their pixels."""
    image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    weights = shared_data("checkpoints/cifar_resnet20/resnet20-12fca82f.th")
    images, _ = lossless_cifar10
    paths = [str(tmp_path / f"{number:03}.png") for number in range(100)]
    for path, image in zip(paths, images):
        image_module.fromarray(image.transpose(1, 2, 0).astype(np.uint8)).save(path)
    options = ["--weights", str(weights), "--top", "1"]
    assert main(["classify", "cifar_resnet20", *paths, *options]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.endswith("images as for 'image_folder'")
    assert lines[::2] == paths
    guesses = [int(line.split()[2]) for line in lines[1::2]]
    assert guesses == resnet20_classes(weights, images[:100]).tolist()


def test_lenet_of_caffe():
    """99.14 % of MNIST's 10,000 test images."""
    model = fc.models.caffe_lenet()
    model.load_weights(shared_data("checkpoints/caffe/lenet_mnist.caffemodel"))
    _, test = fc.data.load_mnist(shared_data("mnist"))
    found = classes_of(model.eval(), test.images.astype(np.float32) / 256)
    assert np.count_nonzero(found == test.labels) == pytest.approx(9914, abs=1)


def test_cifar10_quick_of_caffe(lossless_cifar10):
    """About 75 %, as Caffe's example says of the whole test set."""
    model = fc.models.cifar10_quick()
    model.load_weights(shared_data("checkpoints/caffe/cifar10_quick.caffemodel"))
    mean = fc.read_checkpoint(shared_data("checkpoints/caffe/cifar10_mean.binaryproto"))["mean"]
    images, labels = lossless_cifar10
    found = classes_of(model.eval(), images - mean)
    assert 740 <= np.count_nonzero(found == labels) <= 770


def test_googlenet_of_caffe_by_the_command(capsys):
    """Of 50 photographs 40 right at first guess and 48 in five, give or take one."""
    pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    photos = sorted(shared_data("imagenet_samples").glob("*.JPEG"))
    weights = shared_data("checkpoints/googlenet/weights.npz")
    assert main(["classify", "googlenet", *map(str, photos), "--weights", str(weights)]) == 0
    lines = iter(capsys.readouterr().out.splitlines())
    assert next(lines).endswith("images as for 'caffe'")
    first = in_five = 0
    for photo in photos:
        assert next(lines) == str(photo)
        guesses = [int(next(lines).split()[2]) for _ in range(5)]
        wanted = int(photo.name.split("_")[0])
        first += guesses[0] == wanted
        in_five += wanted in guesses
    assert len(photos) == 50
    assert first == pytest.approx(40, abs=1)
    assert in_five == pytest.approx(48, abs=1)


def test_what_does_not_fit_is_listed():
    """Real files with the wrong network: every missing, unexpected and misshapen entry."""
    state = fc.read_checkpoint(shared_data("checkpoints/cifar_resnet20/resnet20-12fca82f.th"))
    with pytest.raises(ValueError, match="entries do not fit") as caught:
        fc.models.cifar_resnet(32, num_classes=100).load_state_dict(state)
    lines = str(caught.value).splitlines()
    assert any("missing: layer1.3.conv1.weight (16, 16, 3, 3)" in line for line in lines)
    assert any("misshapen: linear.weight is (10, 64), but the model has (100, 64)" in line
               for line in lines)  # fmt: skip
    with pytest.raises(ValueError, match="entries do not fit") as caught:
        fc.models.cifar_resnet(8).load_state_dict(state)
    assert "unexpected: layer1.1.conv1.weight (16, 16, 3, 3)" in str(caught.value)
    heads = fc.models.googlenet()
    with pytest.raises(ValueError, match=r"missing: aux1\.conv\.conv\.weight"):
        heads.load_weights(shared_data("checkpoints/googlenet/weights.npz"))
