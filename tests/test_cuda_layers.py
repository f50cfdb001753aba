"""Layers and models on CUDA against the same layers on the CPU."""

from __future__ import annotations

import copy

import fastconv as fc
import numpy as np
import pytest
from cuda_support import DTYPES, eps, host, on_gpu, rounded
from support import integers, normals

pytestmark = pytest.mark.kernels

L = fc.layers

# name: (how to make the layer, the shape of its input)
LAYERS = {
    "Conv2d": (lambda: L.Conv2d(8, 16, 3, padding=1), (2, 8, 6, 5)),
    "Conv2d groups": (lambda: L.Conv2d(8, 8, 3, stride=2, groups=8, bias=False), (2, 8, 7, 7)),
    "ConvTranspose2d": (lambda: L.ConvTranspose2d(8, 6, 2, stride=2), (2, 8, 3, 4)),
    "Linear": (lambda: L.Linear(12, 7), (5, 12)),
    "BatchNorm2d": (lambda: L.BatchNorm2d(8), (3, 8, 4, 5)),
    "LocalResponseNorm": (lambda: L.LocalResponseNorm(5, alpha=0.5), (2, 9, 3, 4)),
    "MaxPool2d": (lambda: L.MaxPool2d(3, stride=2, padding=1), (2, 8, 7, 6)),
    "AvgPool2d": (lambda: L.AvgPool2d(2), (2, 8, 6, 6)),
    "AdaptiveAvgPool2d": (lambda: L.AdaptiveAvgPool2d((2, 3)), (2, 8, 5, 7)),
    "GlobalAvgPool2d": (lambda: L.GlobalAvgPool2d(), (2, 8, 4, 4)),
    "ReLU": (lambda: L.ReLU(), (2, 8, 4, 4)),
    "Sigmoid": (lambda: L.Sigmoid(), (2, 8, 4, 4)),
    "Tanh": (lambda: L.Tanh(), (3, 7)),
    "Softmax": (lambda: L.Softmax(), (3, 7)),
    "Flatten": (lambda: L.Flatten(), (2, 8, 3, 4)),
    "Dropout": (lambda: L.Dropout(0.5, seed=3), (2, 8, 3, 4)),
    "PositionBias": (lambda: L.PositionBias(8, 3, 4), (2, 8, 3, 4)),
    "Residual": (lambda: L.Residual(L.Conv2d(8, 8, 3, padding=1)), (2, 8, 5, 4)),
    "Residual shortcut": (
        lambda: L.Residual(L.Conv2d(8, 16, 1), L.Conv2d(8, 16, 1)),
        (2, 8, 5, 4),
    ),
    "ZeroPaddedShortcut": (lambda: L.ZeroPaddedShortcut(8, 11, stride=2), (2, 8, 5, 4)),
    "Highway": (lambda: L.Highway(L.Sequential(L.Linear(9, 9), L.Tanh()), L.Linear(9, 9)), (5, 9)),
    "Highway images": (
        lambda: L.Highway(L.Conv2d(8, 8, 3, padding=1), L.Conv2d(8, 8, 1)),
        (2, 8, 5, 4),
    ),
    "Concat": (lambda: L.Concat(L.Conv2d(8, 8, 1), L.Conv2d(8, 16, 3, padding=1)), (2, 8, 5, 4)),
}


def with_values(layer, rng):
    """`layer` with parameters that are numbers of 16 bits, too."""
    for parameter in layer.parameters():
        parameter.data = rounded(normals(parameter.shape, rng), "bfloat16")
    return layer


def close(actual, expected, dtype):
    """Errors relative to the largest element; 16 bits are rounded after every layer."""
    expected = np.asarray(expected)
    tolerance = 2e-5 if dtype == "float32" else 6 * eps(dtype)
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(host(actual), expected, rtol=tolerance, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_forward_and_backward(name, dtype, rng):
    make, shape = LAYERS[name]
    layer = with_values(make(), rng)
    twin = copy.deepcopy(layer).to("cuda", dtype)
    x = rounded(normals(shape, rng), dtype)
    y = layer(x)
    ours = twin(on_gpu(x, dtype, "channels_last"))
    assert ours.dtype.name == dtype
    close(ours, y, dtype)
    grad = rounded(normals(y.shape, rng), dtype)
    close(twin.backward(on_gpu(grad, dtype)), layer.backward(grad), dtype)
    for mine, theirs in zip(twin.parameters(), layer.parameters(), strict=True):
        assert mine.grad.dtype.name == mine.data.dtype.name
        close(mine.grad, theirs.grad, dtype)
    layer.eval()
    twin.eval()
    close(twin(on_gpu(x, dtype, "channels_last")), layer(x), dtype)


def small_model():
    return L.Sequential(
        L.Conv2d(3, 8, 3, padding=1),
        L.BatchNorm2d(8),
        L.ReLU(),
        L.Residual(L.Conv2d(8, 8, 3, padding=1)),
        L.MaxPool2d(2),
        L.Flatten(),
        L.Linear(72, 5),
    )


def test_gradients_add_up_and_are_cleared(rng):
    model = small_model().to("cuda")
    x, grad = on_gpu(normals((2, 3, 6, 6), rng)), on_gpu(normals((2, 5), rng))
    model(x)
    model.backward(grad, need_input=False)
    once = [host(p.grad) for p in model.parameters()]
    model(x)
    model.backward(grad, need_input=False)
    for parameter, first in zip(model.parameters(), once, strict=True):
        np.testing.assert_allclose(host(parameter.grad), 2 * first, rtol=1e-5, atol=1e-5)
    model.zero_grad()
    assert all((host(p.grad) == 0).all() for p in model.parameters())


def test_moving_keeps_values_and_statistics_stay_float32(rng):
    model = with_values(small_model(), rng)
    before = {name: value.copy() for name, value in model.state_dict().items()}
    model.to("cuda", "bfloat16")
    dtypes = {name: value.dtype.name for name, value in model.state_dict().items()}
    assert dtypes["0.weight"] == dtypes["6.bias"] == "bfloat16"
    assert {dtypes[f"1.{name}"] for name in ("weight", "bias", "running_mean", "running_var")} == {
        "float32"
    }
    model.to("cpu")
    for name, value in model.state_dict().items():
        assert isinstance(value, np.ndarray)
        assert np.array_equal(value, before[name])
        assert value.dtype == before[name].dtype


def test_what_cannot_be_is_refused_and_nothing_moves():
    model = small_model()
    with pytest.raises(TypeError, match="bfloat16 has kernels on a CUDA device only; give device="):
        model.to(dtype="bfloat16")
    with pytest.raises(TypeError, match="float64 has no kernels on a CUDA device"):
        model.to("cuda", np.float64)
    with pytest.raises(ValueError, match="device='gpu', but"):
        model.to("gpu")
    assert all(isinstance(p.data, np.ndarray) for p in model.parameters())


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_are_saved_and_loaded(dtype, rng, tmp_path):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    model, other = with_values(small_model(), rng).to("cuda", dtype), small_model()
    model.save_weights(tmp_path / "w.safetensors")
    other.to("cuda", dtype).load_weights(tmp_path / "w.safetensors")
    for (name, mine), theirs in zip(
        other.state_dict().items(), model.state_dict().values(), strict=True
    ):
        if not isinstance(mine, np.ndarray):
            assert np.array_equal(host(mine), host(theirs)), name
    other.load_state_dict(model.state_dict())
    with pytest.raises(ValueError, match="misshapen"):
        other.load_state_dict({**model.state_dict(), "6.bias": np.zeros(4, np.float32)})


def test_parameters_are_read_only_in_eval_mode(rng):
    parameter = L.Linear(3, 2).to("cuda").eval().weight
    assert not parameter.data.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        parameter.data[...] = 0
    with pytest.raises(ValueError, match="read-only in eval mode"):
        parameter.data = np.zeros((2, 3), np.float32)


def test_errors_name_the_layer(rng):
    model = small_model().to("cuda")
    with pytest.raises(ValueError, match=r"Conv2d '0': .*weight is on CUDA device 0, but x is on"):
        model(integers((2, 3, 6, 6), rng))


def test_the_end_of_a_residual_block(rng):
    """Its addition and ReLU are passes of their own here. In float32 alone: of 16 bits the rounding
    decides which sums near zero the ReLU cuts off."""
    body = L.Sequential(L.Conv2d(8, 8, 3, padding=1), L.BatchNorm2d(8))
    layer = with_values(L.Sequential(L.Residual(body), L.ReLU()), rng)
    x, grad = normals((3, 8, 5, 4), rng), normals((3, 8, 5, 4), rng)
    other = copy.deepcopy(layer).to("cuda")
    y, on_device = layer(x), other(on_gpu(x))
    close(host(on_device), y, "float32")
    close(host(other.backward(on_gpu(grad))), layer.backward(grad), "float32")
    for one, same in zip(other.parameters(), layer.parameters(), strict=True):
        close(host(one.grad), same.grad, "float32")
