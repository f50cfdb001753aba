"""Networks against torchvision's, or against PyTorch models written here, with the same weights."""

from __future__ import annotations

from collections import OrderedDict

import fastconv as fc
import numpy as np
import pytest
from fastconv import init
from torch_models import assert_same, torchvision_models

torch = pytest.importorskip("torch")
nn = torch.nn
models = fc.models

TORCHVISION = {
    "alexnet": lambda **options: models.alexnet(variant="torchvision", **options),
    "googlenet": lambda **options: models.googlenet(variant="torchvision", **options),
    **{
        name: getattr(models, name)
        for name in ("vgg11", "vgg13", "vgg16", "vgg19", "resnet18", "resnet34", "resnet50",
                     "resnet101", "resnet152")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
def test_names_and_shapes_are_torchvisions(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.device("meta"):
        theirs = getattr(torchvision_models(), name)(**options)
    with init.skipped():
        ours = TORCHVISION[name]()
    wanted = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
    assert {key: value.shape for key, value in ours.state_dict().items()} == wanted


def cases(**networks):
    """name -> (shape, whether it is long)."""
    return [
        pytest.param(name, shape, marks=pytest.mark.full if long else ())
        for name, (shape, long) in networks.items()
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    cases(
        alexnet=((2, 3, 95, 95), False), vgg11=((2, 3, 32, 32), False),
        vgg13=((2, 3, 32, 32), True), vgg16=((1, 3, 48, 48), True), vgg19=((1, 3, 64, 64), True),
    ),
)  # fmt: skip
def test_convolutions_of_torchvisions_plain_networks(name, shape, rng):
    """Without the linear layers, whose 100 million weights take most of the time; see below."""
    with init.skipped():
        ours = TORCHVISION[name]().features
    with init.seeded(1):
        for parameter in ours.parameters():
            if len(parameter.shape) == 4:
                parameter.data = init.he_normal(parameter.shape)
    with torch.device("meta"):
        theirs = getattr(torchvision_models(), name)().features
    assert_same(ours, theirs.to_empty(device="cpu"), shape, rng)


@pytest.mark.full
@pytest.mark.parametrize(("name", "size"), [("alexnet", 224), ("vgg16", 64)])
def test_torchvisions_plain_networks(name, size, rng):
    ours = TORCHVISION[name](num_classes=10, seed=1)
    theirs = getattr(torchvision_models(), name)(num_classes=10)
    assert_same(ours, theirs, (1, 3, size, size), rng, jumps=True)


@pytest.mark.parametrize(
    ("name", "shape"),
    cases(
        resnet18=((2, 3, 64, 64), False), resnet34=((2, 3, 64, 64), True),
        resnet50=((2, 3, 64, 64), False), resnet101=((2, 3, 64, 64), True),
        resnet152=((2, 3, 64, 64), True),
    ),
)  # fmt: skip
def test_residual_networks(name, shape, rng):
    """Blocks add little to what they pass on, as in trained networks: drawn at random, a deep one
    makes so much of rounding that PyTorch's own float32 is 1e-3 from its float64."""
    theirs = getattr(torchvision_models(), name)(num_classes=10)
    ours = TORCHVISION[name](num_classes=10, seed=1)
    last = "bn2" if name in ("resnet18", "resnet34") else "bn3"
    for path, layer in ours.named_layers():
        if path.endswith(last):
            layer.weight.data *= np.float32(0.25)
    assert_same(ours, theirs, shape, rng, jumps=name in ("resnet101", "resnet152"))


class CifarBlock(nn.Module):
    """As published with the checkpoints whose names ours has."""

    def __init__(self, channels, width, stride, residual):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.extra, self.residual = stride, (width - channels) // 2, residual

    def forward(self, x):
        y = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        if self.residual:
            step, extra = self.stride, self.extra
            y = y + nn.functional.pad(x[:, :, ::step, ::step], (0, 0, 0, 0, extra, extra))
        return y.relu()


class CifarNet(nn.Module):
    def __init__(self, depth, residual):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks = (depth - 2) // 6
        for stage, (channels, width) in enumerate(((16, 16), (16, 32), (32, 64)), start=1):
            first = CifarBlock(channels, width, 1 + (stage > 1), residual)
            others = [CifarBlock(width, width, 1, residual) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage}", nn.Sequential(first, *others))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = self.layer1(self.bn1(self.conv1(x)).relu())
        return self.linear(self.layer3(self.layer2(x)).mean((2, 3)))


@pytest.mark.parametrize(("depth", "residual"), [(8, True), (20, True), (20, False)])
def test_cifar_networks(depth, residual, rng):
    make = fc.models.cifar_resnet if residual else fc.models.cifar_plain
    assert_same(make(depth, seed=1), CifarNet(depth, residual), (4, 3, 16, 16), rng)


def stack(*layers):
    """(name, layer) one after another; other modules between them have no weights."""
    return nn.Sequential(
        OrderedDict((f"_{i}", layer) if isinstance(layer, nn.Module) else layer
                    for i, layer in enumerate(layers))
    )  # fmt: skip


def alexnet_features(norm):
    return [
        ("conv1", nn.Conv2d(3, 96, 11, 4)), nn.ReLU(), *norm, nn.MaxPool2d(3, 2),
        ("conv2", nn.Conv2d(96, 256, 5, 1, 2, groups=2)), nn.ReLU(), *norm, nn.MaxPool2d(3, 2),
        ("conv3", nn.Conv2d(256, 384, 3, 1, 1)), nn.ReLU(),
        ("conv4", nn.Conv2d(384, 384, 3, 1, 1, groups=2)), nn.ReLU(),
        ("conv5", nn.Conv2d(384, 256, 3, 1, 1, groups=2)), nn.ReLU(), nn.MaxPool2d(3, 2),
    ]  # fmt: skip


def zfnet_features(third, fourth, fifth):
    norm = nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)
    return [
        ("conv1", nn.Conv2d(3, 96, 7, 2, 1)), nn.ReLU(), nn.MaxPool2d(3, 2, 1), norm,
        ("conv2", nn.Conv2d(96, 256, 5, 2)), nn.ReLU(), nn.MaxPool2d(3, 2, 1), norm,
        ("conv3", nn.Conv2d(256, third, 3, 1, 1)), nn.ReLU(),
        ("conv4", nn.Conv2d(third, fourth, 3, 1, 1)), nn.ReLU(),
        ("conv5", nn.Conv2d(fourth, fifth, 3, 1, 1)), nn.ReLU(), nn.MaxPool2d(3, 2),
    ]  # fmt: skip


def linear_layers(features):
    return [
        nn.Flatten(), ("fc6", nn.Linear(features, 4096)), nn.ReLU(),
        ("fc7", nn.Linear(4096, 4096)), nn.ReLU(), ("fc8", nn.Linear(4096, 10)),
    ]  # fmt: skip


NORMS = {
    "paper": [nn.LocalResponseNorm(5, 5e-4, 0.75, 2.0)],
    "caffe": [nn.LocalResponseNorm(5, 1e-4, 0.75, 1.0)],
    None: [],
}
OLDER = {
    **{
        f"alexnet, {norm}": (
            lambda norm=norm: models.alexnet(response_norm=norm, num_classes=10, seed=1),
            lambda norm=norm: alexnet_features(NORMS[norm]), (1, 3, 227, 227), 256,
        )
        for norm in NORMS
    },
    "zfnet": (
        lambda: models.zfnet(num_classes=10, seed=1), lambda: zfnet_features(384, 384, 256),
        (1, 3, 224, 224), 256,
    ),
    "zfnet, lecture": (
        lambda: models.zfnet(num_classes=10, seed=1, variant="lecture"),
        lambda: zfnet_features(512, 1024, 512), (1, 3, 224, 224), 512,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ["alexnet, paper", "alexnet, None", "zfnet"])
def test_convolutions_of_alexnet_and_zfnet(name, rng):
    ours, theirs, *_ = OLDER[name]
    with init.skipped():
        model = ours()
    features = model[: [*model].index(model.pool5) + 1]
    with init.seeded(1):
        for parameter in features.parameters():
            if len(parameter.shape) == 4:
                parameter.data = init.he_normal(parameter.shape)
    assert_same(features, stack(*theirs()), (1, 3, 99, 99), rng)


@pytest.mark.full
@pytest.mark.parametrize("name", OLDER)
def test_alexnet_and_zfnet(name, rng):
    ours, theirs, shape, channels = OLDER[name]
    assert_same(ours(), stack(*theirs(), *linear_layers(36 * channels)), shape, rng, jumps=True)


def all_cnn(letter):
    sizes = {"a": [5], "b": [5, 1], "c": [3, 3]}[letter]
    layers, channels = [nn.Dropout(0.2)], 3
    for width in (96, 192):
        for size in sizes:
            layers += [nn.Conv2d(channels, width, size, 1, size // 2), nn.ReLU()]
            channels = width
        layers += [nn.Conv2d(width, width, 3, 2, 1), nn.ReLU(), nn.Dropout(0.5)]
    layers += [nn.Conv2d(192, 192, 3), nn.ReLU(), nn.Conv2d(192, 192, 1), nn.ReLU()]
    layers += [nn.Conv2d(192, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("letter", "abc")
def test_all_cnn(letter, rng):
    ours = getattr(models, f"all_cnn_{letter}")(seed=1)
    assert_same(ours, all_cnn(letter), (2, 3, 16, 16), rng)


class Gated(nn.Module):
    def __init__(self, make):
        super().__init__()
        self.transform, self.gate = nn.Sequential(make()), make()

    def forward(self, x):
        t = torch.sigmoid(self.gate(x))
        return self.transform(x).relu() * t + x * (1 - t)


def test_cifar_highway(rng):
    layers, channels = [], 3
    for stage, width in enumerate((32, 80, 128), start=1):
        layers += [nn.MaxPool2d(2)] if stage > 1 else []
        layers += [(f"conv{stage}", nn.Conv2d(channels, width, 3, 1, 1)), nn.ReLU()]
        gated = [Gated(lambda w=width: nn.Conv2d(w, w, 3, 1, 1)) for _ in range(2)]
        layers.append((f"stage{stage}", nn.Sequential(*gated)))
        channels = width
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), ("output", nn.Linear(128, 10))]
    assert_same(models.cifar_highway(10, seed=1), stack(*layers), (2, 3, 16, 16), rng)


def test_highway_mlp(rng):
    layers = [nn.Flatten(), ("input", nn.Linear(784, 50)), nn.ReLU()]
    layers += [(f"highway{i}", Gated(lambda: nn.Linear(50, 50))) for i in range(1, 9)]
    theirs = stack(*layers, ("output", nn.Linear(50, 10)))
    assert_same(models.highway_mlp(10, seed=1), theirs, (5, 1, 28, 28), rng)


class Policy(nn.Module):
    def __init__(self, filters):
        super().__init__()
        self.conv1 = nn.Conv2d(48, filters, 5, 1, 2)
        for index in range(2, 13):
            setattr(self, f"conv{index}", nn.Conv2d(filters, filters, 3, 1, 1))
        self.last = nn.Conv2d(filters, 1, 1, bias=False)
        self.position_bias = nn.Module()
        self.position_bias.bias = nn.Parameter(torch.zeros(1, 19, 19))

    def forward(self, x):
        for index in range(1, 13):
            x = getattr(self, f"conv{index}")(x).relu()
        return (self.last(x) + self.position_bias.bias).flatten(1)


def test_alphago_policy(rng):
    ours = models.alphago_policy(24, seed=1)
    ours.position_bias.bias.data = rng.standard_normal((1, 19, 19)).astype("f4")
    assert_same(ours, Policy(24), (2, 48, 19, 19), rng)


def test_lenet5(rng):
    theirs = stack(
        ("c1", nn.Conv2d(1, 6, 5)), nn.ReLU(), nn.MaxPool2d(2),
        ("c3", nn.Conv2d(6, 16, 5)), nn.ReLU(), nn.MaxPool2d(2),
        ("c5", nn.Conv2d(16, 120, 5)), nn.ReLU(), nn.Flatten(),
        ("f6", nn.Linear(120, 84)), nn.ReLU(), ("output", nn.Linear(84, 10)),
    )  # fmt: skip
    assert_same(models.lenet5(seed=1), theirs, (4, 1, 32, 32), rng)
