"""The reference linear layer, activations, softmax, dropout and loss."""

import numpy as np
import pytest
from cases import IMAGES, LINEAR
from fastconv import reference
from fastconv.gradient_check import gradcheck
from fastconv.reference.dropout import philox
from support import assert_exact, assert_within_bound, params

INF, NAN = np.inf, np.nan

FROM_OUTPUT = {
    "relu": reference.relu_backward,
    "leaky_relu": reference.leaky_relu_backward,
    "sigmoid": reference.sigmoid_backward,
    "tanh": reference.tanh_backward,
    "softmax": reference.softmax_backward,
    "log_softmax": reference.log_softmax_backward,
}


@pytest.mark.parametrize("name", FROM_OUTPUT)
@pytest.mark.parametrize("shape", IMAGES)
def test_activations_are_those_of_torch(name, shape, rng):
    torch = pytest.importorskip("torch")
    x = 3 * rng.normal(size=shape)
    x_torch = torch.tensor(x, requires_grad=True)
    axis = {"dim": 1} if "softmax" in name else {}
    expected = getattr(torch.nn.functional, name)(x_torch, **axis)
    y = getattr(reference, name)(x)
    assert_within_bound(y, expected.detach().numpy(), 1e-13)
    g = rng.normal(size=shape)
    expected.backward(torch.tensor(g))
    assert_within_bound(FROM_OUTPUT[name](g, y), x_torch.grad.numpy(), 1e-13)


@pytest.mark.parametrize("name", FROM_OUTPUT)
def test_special_values_are_those_of_torch(name):
    torch = pytest.importorskip("torch")
    x = np.array([[0.0, 1.0, NAN], [-INF, 2.0, 1.0], [INF, 2.0, 1.0], [-INF, -INF, -INF],
                  [1e4, 1.0, -1e4], [-0.0, 1e-310, -1e-310]])  # fmt: skip
    x_torch = torch.tensor(x, requires_grad=True)
    axis = {"dim": 1} if "softmax" in name else {}
    expected = getattr(torch.nn.functional, name)(x_torch, **axis)
    y = getattr(reference, name)(x)
    assert_within_bound(y, expected.detach().numpy(), 1e-13)
    g = np.array([[1.0, INF, 2.0]] * len(x))
    expected.backward(torch.tensor(g))
    if "softmax" not in name:  # where infinite gradients meet, the order of the sum decides
        assert_exact(FROM_OUTPUT[name](g, y), x_torch.grad.numpy())


@pytest.mark.parametrize("name", FROM_OUTPUT)
def test_activation_gradients_are_differences(name, rng):
    def f(x):
        y = getattr(reference, name)(x)
        return y, lambda g: FROM_OUTPUT[name](g, y)

    report = gradcheck(f, rng.normal(size=(2, 3, 4, 5)))
    assert report, report


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_along_any_axis(axis, rng):
    x, g = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4, 5))
    y = reference.softmax(x, axis)
    assert_within_bound(y.sum(axis=axis), np.ones_like(y.sum(axis=axis)), 1e-14)
    moved = np.moveaxis(x, axis, 1)
    assert_within_bound(np.moveaxis(y, axis, 1), reference.softmax(moved), 1e-15)
    assert_within_bound(np.log(y), reference.log_softmax(x, axis), 1e-14)
    grad = reference.softmax_backward(g, y, axis)
    assert_within_bound(grad.sum(axis=axis), 0 * grad.sum(axis=axis), 1e-14)
    log_grad = reference.log_softmax_backward(g, np.log(y), axis)
    by_row = reference.log_softmax_backward(
        np.moveaxis(g, axis, 1), np.log(np.moveaxis(y, axis, 1))
    )
    assert_within_bound(np.moveaxis(log_grad, axis, 1), by_row, 1e-14)


@pytest.mark.parametrize("case", params(LINEAR))
@pytest.mark.parametrize("activation", [None, "relu"])
def test_linear_is_that_of_torch(case, activation, rng):
    torch = pytest.importorskip("torch")
    arrays = (
        rng.normal(size=(case.n, case.c)),
        rng.normal(size=(case.k, case.c)),
        rng.normal(size=case.k),
    )
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    expected = torch.nn.functional.linear(*tensors)
    expected = torch.relu(expected) if activation else expected
    y = reference.linear(*arrays, activation=activation)
    assert_within_bound(y, expected.detach().numpy(), 1e-12)
    g = rng.normal(size=y.shape)
    expected.backward(torch.tensor(g))
    gradients = reference.linear_backward(g, *arrays[:2], activation=activation, output=y)
    for gradient, tensor in zip(gradients, tensors, strict=True):
        assert_within_bound(gradient, tensor.grad.numpy(), 1e-11)


def test_linear_gradient_is_differences(rng):
    def f(x, weight, bias):
        y = reference.linear(x, weight, bias, activation="relu")
        return y, lambda g: reference.linear_backward(g, x, weight, activation="relu", output=y)

    report = gradcheck(f, [rng.normal(size=shape) for shape in ((5, 7), (3, 7), (3,))])
    assert report, report


def test_linear_of_one_vector(rng):
    x, weight, g = rng.normal(size=7), rng.normal(size=(3, 7)), rng.normal(size=3)
    assert_within_bound(reference.linear(x, weight), weight @ x, 1e-14)
    gradients = reference.linear_backward(g, x, weight)
    assert_within_bound(gradients[0], g @ weight, 1e-14)
    assert_exact(gradients[1], np.outer(g, x))
    assert_exact(gradients[2], g)
    assert reference.linear_backward(g, x, weight, need=("bias",))[:2] == (None, None)


def test_an_activation_needs_its_output():
    x, weight = np.ones((1, 2)), np.ones((3, 2))
    with pytest.raises(ValueError, match="needs output="):
        reference.linear_backward(np.ones((1, 3)), x, weight, activation="relu")
    with pytest.raises(ValueError, match="wanted \\(N, C\\) and \\(K, C\\)"):
        reference.linear(np.ones((1, 3)), weight)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_is_that_of_torch(label_smoothing, reduction, rng):
    torch = pytest.importorskip("torch")
    logits, target = 5 * rng.normal(size=(6, 10)), rng.integers(0, 10, size=6)
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    logits_torch = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(logits_torch, torch.tensor(target), **options)
    loss = reference.cross_entropy(logits, target, **options)
    assert_within_bound(loss, expected.detach().numpy(), 1e-13)
    g = rng.normal(size=np.shape(loss))
    expected.backward(torch.tensor(g))
    grad = reference.cross_entropy_backward(logits, target, grad_output=g, **options)
    assert_within_bound(grad, logits_torch.grad.numpy(), 1e-13)


def test_cross_entropy_gradient_is_differences(rng):
    target = np.array([0, 3, 1])
    for reduction in ("mean", "sum", "none"):
        options = {"label_smoothing": 0.2, "reduction": reduction}

        def f(logits, options=options):
            return reference.cross_entropy(
                logits, target, **options
            ), lambda g: reference.cross_entropy_backward(logits, target, grad_output=g, **options)

        report = gradcheck(f, rng.normal(size=(3, 4)))
        assert report, report


def test_cross_entropy_of_nothing_and_of_infinities():
    logits, target = np.zeros((0, 3)), np.zeros(0, np.int64)
    assert np.isnan(reference.cross_entropy(logits, target))
    assert reference.cross_entropy(logits, target, reduction="sum") == 0
    assert reference.cross_entropy_backward(logits, target).shape == (0, 3)
    assert reference.cross_entropy(np.array([[0.0, -INF]]), np.array([0])) == 0
    assert reference.cross_entropy(np.array([[0.0, -INF]]), np.array([1])) == INF


@pytest.mark.parametrize(
    ("target", "options", "message"),
    [
        ([0, 3], {}, "3 classes"),
        ([-1, 0], {}, "3 classes"),
        ([0], {}, r"wanted \(N, C\) and \(N,\)"),
        ([0, 1], {"reduction": "max"}, "reduction='max'"),
        ([0, 1], {"label_smoothing": 1.5}, "label_smoothing=1.5"),
    ],
)
def test_cross_entropy_refuses(target, options, message):
    with pytest.raises(ValueError, match=message):
        reference.cross_entropy(np.zeros((2, 3)), np.array(target), **options)


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000",
         "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
         "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
         "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)  # fmt: skip
def test_philox_gives_the_published_words(counter, key, words):
    """kat_vectors of Random123, philox4x32 with 10 rounds."""
    counter = tuple(np.array([int(word, 16)], np.uint64) for word in counter.split())
    left, right = (int(word, 16) for word in key.split())
    assert " ".join(f"{int(w[0]):08x}" for w in philox(counter, (left, right))) == words


def test_dropout_follows_its_docstring():
    """Element by element, in Python's integers."""

    def word(index, seed):
        a, b, c, d = index // 4 % 2**32, index // 4 // 2**32, 0, 0
        left, right = seed % 2**32, seed // 2**32
        for _ in range(10):
            first, second = 0xD2511F53 * a, 0xCD9E8D57 * c
            a, b, c, d = (
                second // 2**32 ^ b ^ left, second % 2**32,
                first // 2**32 ^ d ^ right, first % 2**32,
            )  # fmt: skip
            left, right = (left + 0x9E3779B9) % 2**32, (right + 0xBB67AE85) % 2**32
        return (a, b, c, d)[index % 4]

    x = np.arange(1.0, 121.0).reshape(2, 3, 4, 5)
    for seed in (0, 7, 2**64 - 1):
        for p in (0.0, 0.25, 0.7):
            expected = [
                value / (1 - p) if word(i, seed) >= np.floor(p * 2**32 + 0.5) else 0.0
                for i, value in enumerate(x.ravel())
            ]
            assert_within_bound(reference.dropout(x, p, seed=seed).ravel(), expected, 1e-12)


def test_dropout_keeps_its_share_and_its_mean():
    y = reference.dropout(np.ones(10**6, np.float32), 0.3, seed=11)
    assert y.dtype == np.float32
    assert abs((y == 0).mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / 10**6)
    assert_exact(np.unique(y), np.array([0, 1 / 0.7], np.float32))


def test_dropout_ignores_memory_order_and_what_it_drops(rng):
    x = rng.normal(size=(2, 3, 4, 5))
    y = reference.dropout(x, 0.5, seed=3)
    assert_exact(reference.dropout(np.asfortranarray(x), 0.5, seed=3), y)
    assert_exact(reference.dropout_backward(x, 0.5, seed=3), y)
    assert not np.array_equal(reference.dropout(x, 0.5, seed=4), y)
    assert_exact(reference.dropout(np.full(4, NAN), 1.0, seed=0), np.zeros(4))
    assert_exact(reference.dropout(x, 0.0, seed=0), x)
    same = reference.dropout(x, 0.5, seed=3, training=False)
    assert_exact(same, x)
    assert not np.shares_memory(same, x)


@pytest.mark.parametrize("arguments", [{"p": 1.1, "seed": 0}, {"p": 0.5, "seed": -1},
                                       {"p": 0.5, "seed": 2**64}])  # fmt: skip
def test_dropout_refuses(arguments):
    with pytest.raises(ValueError, match="wanted 0 <="):
        reference.dropout(np.ones(3), **arguments)
