"""Training on CUDA: fit, the optimiser's float32 masters, exact resume."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cuda_support import DTYPES, host, on_gpu, rounded
from support import normals

pytestmark = pytest.mark.kernels

L = fc.layers


def highway(channels):
    layer = L.Highway(
        L.Sequential(L.Conv2d(channels, channels, 3, padding=1), L.ReLU()),
        L.Conv2d(channels, channels, 1),
    )
    layer.gate.bias.data -= 1
    return layer


def model_and_data(rng):
    model = L.Sequential(
        L.Conv2d(1, 8, 3, padding=1),
        L.BatchNorm2d(8),
        L.ReLU(),
        highway(8),
        L.MaxPool2d(2),
        L.Dropout(0.1, seed=5),
        L.Flatten(),
        L.Linear(32, 3),
    )
    for parameter in model.parameters():
        if parameter.data.ndim > 1:
            parameter.data = normals(parameter.shape, rng) * np.float32(0.3)
    x = normals((42, 1, 4, 4), rng)
    y = (x[:, 0, 0, 0] > 0).astype(np.int64) + (x[:, 0, 1, 1] > 0)
    return model, x, y


def trained(device, dtype, rng_seed=0, epochs=3, **options):
    model, x, y = model_and_data(np.random.default_rng(rng_seed))
    model.to(device, dtype)
    optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    history = fc.fit(
        model, (x, y), (x, y), epochs=epochs, batch_size=12, optimizer=optimizer, progress=False,
        **options,
    )  # fmt: skip
    return model, history


@pytest.mark.parametrize("dtype", DTYPES)
def test_fit_follows_the_cpu(dtype):
    model, ours = trained("cuda", dtype)
    _, theirs = trained("cpu", "float32")
    tolerance = 1e-4 if dtype == "float32" else 0.05
    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=tolerance)
    np.testing.assert_allclose(ours["val_loss"], theirs["val_loss"], rtol=2 * tolerance)
    assert ours["loss"][-1] < ours["loss"][0]
    images_apart = 1 if dtype == "float32" else 4
    apart = np.abs(np.subtract(ours["accuracy"], theirs["accuracy"]))
    assert apart.max() <= (images_apart + 0.5) / 42
    assert model[0].weight.dtype.name == dtype


def test_the_same_run_gives_the_same_bits():
    one, two = trained("cuda", "bfloat16")[0], trained("cuda", "bfloat16")[0]
    for name, value in one.state_dict().items():
        other = two.state_dict()[name]
        if not isinstance(value, np.ndarray):
            assert np.array_equal(host(value), host(other)), name


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_resumed_run_ends_with_the_same_bits(dtype, tmp_path):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    path = tmp_path / "run.safetensors"
    whole, history = trained("cuda", dtype)
    trained("cuda", dtype, epochs=1, checkpoint=path)
    resumed, again = trained("cuda", dtype, checkpoint=path, resume=True)
    assert again["loss"] == history["loss"]
    for name, value in whole.state_dict().items():
        other = resumed.state_dict()[name]
        if not isinstance(value, np.ndarray):
            assert np.array_equal(host(value), host(other)), name


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_steps_too_small_for_16_bits_add_up(dtype):
    """1 - 2**-12 is no number of 16 bits; a thousand such steps are seen all the same."""
    parameter = fc.Parameter(on_gpu(np.ones(9, np.float32), dtype))
    optimizer = fc.optim.SGD([parameter], lr=2.0**-12)
    parameter.grad.fill(1)
    for _ in range(1024):
        optimizer.step()
    np.testing.assert_array_equal(host(parameter.data), rounded(np.full(9, 0.75), dtype))
    parameter.load(np.full(9, 2.0, np.float32))  # the master follows
    optimizer.step()
    np.testing.assert_array_equal(host(parameter.data), rounded(np.full(9, 2 - 2.0**-12), dtype))


def test_an_optimiser_follows_a_model_that_moves(rng):
    model = L.Linear(4, 3)
    optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    twin = fc.Parameter(model.weight.data.copy())
    other = fc.optim.SGD([twin], lr=0.1, momentum=0.5)
    for device in ("cpu", "cuda", "cpu"):
        model.to(device)
        grad = normals((3, 4), rng)
        model.zero_grad()
        model.weight.grad = grad if device == "cpu" else on_gpu(grad)
        twin.grad = grad
        optimizer.step()
        other.step()
        np.testing.assert_allclose(
            host(on_gpu(model.weight.data)) if device == "cpu" else host(model.weight.data),
            twin.data,
            rtol=1e-6,
        )


def losses_and_weights(dtype, batches, captured):
    """Of some steps, one as it is and the others as launches of one graph, or all as they are."""
    model, _, _ = model_and_data(np.random.default_rng(0))
    model.to("cuda", dtype).train()
    model[5].p = 0.0  # a graph repeats its dropout's mask
    optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loss = L.CrossEntropyLoss()
    x, target = fc.cuda.asarray(batches[0], dtype=dtype), fc.cuda.asarray(np.arange(6) % 3)

    def step():
        optimizer.zero_grad()
        value = loss(model(x), target)
        model.backward(loss.backward(), need_input=False)
        optimizer.step()
        return value

    value, graph = step(), None
    losses = [float(host(value))]
    for batch in batches[1:]:
        x[...] = fc.cuda.asarray(batch, dtype=dtype)
        if not captured:
            value = step()
        elif graph is None:
            with fc.cuda.capture() as graph:
                value = step()
        if captured:
            graph.launch()
        losses.append(float(host(value)))
    return losses, [host(p.data) for p in model.parameters()]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_captured_training_step_has_the_same_bits(dtype, rng):
    """It is fed through the arrays that it was captured with."""
    batches = normals((4, 6, 1, 4, 4), rng)
    one, other = (losses_and_weights(dtype, batches, captured) for captured in (False, True))
    assert one[0] == other[0]
    assert len(set(one[0])) == 4
    for a, b in zip(one[1], other[1]):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_in_one_array_a_dtype(dtype):
    model, x, _ = model_and_data(np.random.default_rng(0))
    model.to("cuda", dtype)
    for _ in range(2):
        model.zero_grad()
        y = model(on_gpu(x, dtype))
        model.backward(y)
        flats = fc.optim.flat_gradients(model.parameters())
        kinds = {p.dtype.name for p in model.parameters()}
        assert {flat.dtype.name for flat in flats} == kinds
        for flat in flats:
            alike = [p for p in model.parameters() if p.dtype == flat.dtype]
            expected = np.concatenate([host(p.grad).ravel() for p in alike])
            assert np.array_equal(host(flat), expected)
            assert expected.any()
    flats[0].fill(0)
    assert not host(model.parameters()[0].grad).any()
