"""``python -m fastconv train`` by the papers' recipes, on CIFAR-10 files made here."""

from __future__ import annotations

import io
import pickle
import tarfile

import numpy as np
import pytest
from fastconv import data, optim
from fastconv.__main__ import main
from fastconv.checkpoint import read_checkpoint
from fastconv.history import History
from fastconv.layers import Parameter
from fastconv.models import MODELS, find
from fastconv.models.recipes import RECIPES, SCHEDULES, find_recipe
from fastconv.training import fit

TRAIN, TEST = 40, 16


def batch(seed, count):
    """(images (count, 3072), labels): the brightness tells the class."""
    labels = np.arange(count) % 10
    noise = np.random.default_rng(seed).integers(0, 25, (count, 3072))
    return (noise + 25 * labels[:, None]).astype(np.uint8), labels


def write_archive(path):
    """As cifar-10-python.tar.gz."""
    with tarfile.open(path, "w:gz") as archive:
        for seed, (name, count) in enumerate((("data_batch_1", TRAIN), ("test_batch", TEST))):
            pixels, labels = batch(seed, count)
            raw = pickle.dumps({b"data": pixels, b"labels": labels.tolist()}, protocol=2)
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def train(*arguments):
    assert main(["train", *map(str, arguments)]) == 0


@pytest.fixture
def archive(tmp_path):
    return write_archive(tmp_path / "cifar-10-python.tar.gz")


def test_resnet_by_its_recipe(archive, tmp_path, capsys):
    """The command does what a call of fit with the paper's settings does, to the bit."""
    files = ["--save", tmp_path / "w.safetensors", "--history", tmp_path / "h.csv"]
    train("cifar_resnet8", "--data", archive, "--epochs", 4, *files, "--seed", 3)
    assert f"of {TEST} test images right after 4 epochs" in capsys.readouterr().out
    model = find("cifar_resnet8").build(seed=3)
    optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    history = fit(
        model,
        *data.load_cifar10(archive),
        epochs=4,
        batch_size=128,
        optimizer=optimizer,
        augment=data.CropAndFlip(4),
        schedule=optim.MultiStepLR(optimizer, [2, 3]),
        seed=3,
        progress=False,
    )
    weights = read_checkpoint(tmp_path / "w.safetensors")
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(weights[name], value, err_msg=name)
    written = History.from_csv(tmp_path / "h.csv")
    assert written["loss"] == history["loss"]
    np.testing.assert_allclose(written["lr"], [0.1, 0.1, 0.01, 0.001])


def test_options_change_the_recipe(archive, tmp_path):
    common = ["cifar_plain8", "--data", archive, "--quiet", "--epochs", 2, "--history"]
    changes = {
        "schedule": ["--schedule", "constant"],
        "smoothing": ["--label-smoothing", 0.2],
        "subset": ["--subset", 20],
        "none": [],
    }
    rows = {}
    for name, options in changes.items():
        train(*common, tmp_path / f"{name}.csv", *options)
        rows[name] = History.from_csv(tmp_path / f"{name}.csv")
    assert rows["schedule"]["lr"] == [0.1, 0.1]
    assert rows["none"]["lr"] == [0.1, pytest.approx(0.01)]
    # Before the first step, on the same batch, the losses differ by the smoothing alone.
    assert rows["smoothing"][0]["loss"] != rows["none"][0]["loss"]
    assert rows["smoothing"][0]["accuracy"] == rows["none"][0]["accuracy"]
    assert rows["subset"][0]["loss"] != rows["none"][0]["loss"]


def test_plot_of_a_training(archive, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    picture = tmp_path / "run.svg"
    train("cifar_resnet8", "--data", archive, "--epochs", 1, "--quiet", "--plot", picture)
    assert "<svg" in picture.read_text()


def test_resume_by_the_command_ends_in_the_same_bits(archive, tmp_path):
    """With augmentation, steps of the rate, batch norm and momentum."""
    common = ["cifar_resnet8", "--data", archive, "--quiet", "--batch-size", 16, "--epochs", 3]
    train(*common, "--save", tmp_path / "whole.safetensors")
    state = tmp_path / "run.safetensors"
    lives = data.CropAndFlip.__call__
    calls = iter(range(100))

    def dies(self, x, rng):
        if next(calls) == 4:  # within the second epoch
            raise KeyboardInterrupt
        return lives(self, x, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.CropAndFlip, "__call__", dies)
        arguments = [*common, "--checkpoint", state, "--checkpoint-seconds", 0]
        assert main(["train", *map(str, arguments)]) == 130
    train(*common, "--checkpoint", state, "--resume", "--save", tmp_path / "resumed.safetensors")
    whole, resumed = (tmp_path / f"{name}.safetensors" for name in ("whole", "resumed"))
    assert whole.read_bytes() == resumed.read_bytes()


def write_images(folder, classes=("cat", "dog")):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for part in ("train", "val"):
        for number, name in enumerate(classes):
            place = folder / part / name
            place.mkdir(parents=True)
            for index in range(4):
                pixels = np.full((20, 30, 3), 60 + 100 * number + index, np.uint8)
                image.fromarray(pixels).save(place / f"{index}.png")


def test_own_images_in_folders(tmp_path, capsys):
    write_images(tmp_path)
    weights = tmp_path / "w.safetensors"
    options = ["--data", tmp_path, "--epochs", 1, "--quiet", "--save", weights]
    for name in ("cifar_resnet8", "lenet5"):  # in colour and in grey
        train(name, *options)
        assert "of 8 test images" in capsys.readouterr().out
    assert read_checkpoint(weights)["output.weight"].shape[0] == 2
    (tmp_path / "val" / "dog").rename(tmp_path / "val" / "wolf")
    assert main(["train", "lenet5", "--data", str(tmp_path)]) == 2
    assert "train and val differ in the classes dog, wolf" in capsys.readouterr().err
    with pytest.raises(ValueError, match="folders train and val"):
        data.load_image_splits(tmp_path / "train", size=8)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["cifar_resnet8", "--subset", 41], "--subset 41: the training set has 40 images"),
        (["cifar_resnet8", "--plot", "x.bmp"], "'x.bmp' does not end in .png"),
        (["cifar_resnet8", "--label-smoothing", 1.5], "label_smoothing=1.5"),
        (["cifar_resnet9"], "depth=9, but 6 n + 2"),
    ],
)
def test_errors(archive, capsys, options, text):
    assert main(["train", *map(str, options), "--data", str(archive)]) == 2
    assert text in capsys.readouterr().err


# Recipes


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_give_falling_rates(name):
    recipe = RECIPES[name]
    optimizer = optim.SGD([Parameter([0.0])], lr=recipe.lr)
    schedule = recipe.make_schedule(optimizer, recipe.epochs)
    rates = []
    for _ in range(recipe.epochs):
        rates.append(optimizer.lr)
        schedule.step_epoch({"accuracy": 0.5, "val_accuracy": 0.5, "loss": 1.0, "val_loss": 1.0})
    assert max(rates) == recipe.lr
    assert rates[-1] < recipe.lr / 20  # "plateau" too: nothing gets better here


def test_resnets_recipe_is_the_papers():
    """64,000 steps in all, the rate a tenth after 32,000 and 48,000."""
    recipe = find_recipe("cifar_resnet56")
    steps_per_epoch = -(-50_000 // recipe.batch_size)
    assert abs(recipe.epochs * steps_per_epoch - 64_000) < steps_per_epoch
    optimizer = optim.SGD([Parameter([0.0])], lr=recipe.lr)
    falls = recipe.make_schedule(optimizer, recipe.epochs).milestones
    for epoch, steps in zip(falls, (32_000, 48_000), strict=True):
        assert abs(epoch * steps_per_epoch - steps) < steps_per_epoch
    assert find_recipe("cifar_resnet110").warm_up == 0.01
    assert find_recipe("cifar_plain110").warm_up is None


def test_the_networks_have_recipes_and_the_recipes_networks():
    without = {"alphago_policy", "cifar10_quick"}  # examples/alphago; Caffe's images are 0 to 255
    found = {name: find_recipe(name) for name in MODELS if name not in without}
    for name in without:
        with pytest.raises(ValueError, match="no recipe to train"):
            find_recipe(name)
    assert all(recipe in found.values() for recipe in RECIPES.values())
    for name, recipe in found.items():
        assert MODELS[name].image_shape[0] == (1 if recipe.dataset == "mnist" else 3)


def test_a_network_without_a_recipe():
    with pytest.raises(
        ValueError, match="no recipe to train 'net'; there are recipes for alexnet,"
    ):
        find_recipe("net")


def test_every_schedule_can_be_made():
    recipe = find_recipe("lenet5")
    for name in SCHEDULES:
        optimizer = optim.SGD([Parameter([0.0])], lr=0.1)
        made = type(recipe)("mnist", 4, 1, 0.1, schedule=name).make_schedule(optimizer, 4)
        assert (made is None) == (name == "constant")
    with pytest.raises(ValueError, match="'linear' is unknown; known: cosine, steps"):
        type(recipe)("mnist", 4, 1, 0.1, schedule="linear").make_schedule(optimizer, 4)
