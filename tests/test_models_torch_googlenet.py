"""GoogLeNet against torchvision's, and the paper's against a PyTorch model written here."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from torch_models import assert_same, torchvision_models

torch = pytest.importorskip("torch")
nn = torch.nn


def test_googlenet_torchvision(rng):
    theirs = torchvision_models().googlenet(init_weights=False, num_classes=10)
    ours = fc.models.googlenet(variant="torchvision", num_classes=10, seed=1)
    assert_same(ours, theirs, (2, 3, 128, 128), rng, order=(0, 2, 1), jumps=True)


# Channels of each branch, from the paper's table 1.
INCEPTION = {
    "3a": [64, (96, 128), (16, 32), 32], "3b": [128, (128, 192), (32, 96), 64],
    "4a": [192, (96, 208), (16, 48), 64], "4b": [160, (112, 224), (24, 64), 64],
    "4c": [128, (128, 256), (24, 64), 64], "4d": [112, (144, 288), (32, 64), 64],
    "4e": [256, (160, 320), (32, 128), 128], "5a": [256, (160, 320), (32, 128), 128],
    "5b": [384, (192, 384), (48, 128), 128],
}  # fmt: skip


class PaperGoogLeNet(nn.Module):
    """By BVLC's prototxt, functions on weights of our names."""

    def __init__(self, state):
        super().__init__()
        for name, array in state.items():
            self.register_parameter(name.replace(".", "/"), nn.Parameter(torch.from_numpy(array)))

    def load_state_dict(self, state, strict):
        """The weights are there already, under names that PyTorch allows."""

    def named_parameters(self, *args, **kwargs):
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield name.replace("/", "."), parameter

    def state_dict(self, *args, **kwargs):
        return dict(self.named_parameters())

    def conv(self, x, name, **window):
        get = self.get_parameter
        name = name.replace(".", "/")
        y = nn.functional.conv2d(x, get(f"{name}/weight"), get(f"{name}/bias"), **window)
        return y.relu()

    def linear(self, x, name):
        name = name.replace(".", "/")
        weight, bias = self.get_parameter(f"{name}/weight"), self.get_parameter(f"{name}/bias")
        return nn.functional.linear(x, weight, bias)

    def inception(self, x, name):
        path, pool = f"inception{name}.branch", nn.functional.max_pool2d(x, 3, 1, 1)
        parts = [
            self.conv(x, f"{path}1.conv"),
            self.conv(self.conv(x, f"{path}2.0.conv"), f"{path}2.1.conv", padding=1),
            self.conv(self.conv(x, f"{path}3.0.conv"), f"{path}3.1.conv", padding=2),
            self.conv(pool, f"{path}4.1.conv"),
        ]
        ones, (_, threes), (_, fives), project = INCEPTION[name]
        assert [part.shape[1] for part in parts] == [ones, threes, fives, project]
        return torch.cat(parts, 1)

    def head(self, x, name):
        x = self.conv(nn.functional.avg_pool2d(x, 5, 3), f"{name}.conv.conv")
        return self.linear(self.linear(x.flatten(1), f"{name}.fc1").relu(), f"{name}.fc2")

    def forward(self, x):
        def pool(x):
            return nn.functional.max_pool2d(x, 3, 2, ceil_mode=True)

        norm = nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)
        x = norm(pool(self.conv(x, "conv1.conv", stride=2, padding=3)))
        x = pool(norm(self.conv(self.conv(x, "conv2.conv"), "conv3.conv", padding=1)))
        x = pool(self.inception(self.inception(x, "3a"), "3b"))
        x = at_4a = self.inception(x, "4a")
        for name in ("4b", "4c", "4d"):
            x = self.inception(x, name)
        at_4d = x
        x = self.inception(self.inception(pool(self.inception(x, "4e")), "5a"), "5b")
        y = self.linear(x.mean((2, 3)), "fc")
        return (y, self.head(at_4a, "aux1"), self.head(at_4d, "aux2")) if self.training else y


def test_googlenet(rng):
    ours = fc.models.googlenet(num_classes=10, seed=1)
    state = {name: np.array(array) for name, array in ours.state_dict().items()}
    assert_same(ours, PaperGoogLeNet(state), (1, 3, 224, 224), rng, order=(0, 1, 2), jumps=True)
