"""Average, adaptive and global pooling and their gradients: every instruction set against the
reference; the messages of all pooling functions."""

import fastconv as fc
import numpy as np
import pytest
from cases import POOL, pool
from fastconv import reference
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    in_order,
    integers,
    params,
    poisoned,
)

DTYPES = [np.float32, np.float64]
DIVISORS = [
    {},
    {"count_include_pad": False},
    {"divisor_override": 4},
    {"divisor_override": -3},
]
ADAPTIVE = [
    ((2, 5, 9, 7), (3, 2)),
    ((1, 17, 7, 7), (1, 1)),
    ((1, 3, 8, 40), (4, 20)),
    ((2, 33, 5, 6), (7, 9)),
    ((1, 2, 13, 29), (13, 5)),
    ((0, 3, 4, 4), (2, 2)),
    ((1, 64, 12, 12), (6, 6)),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params(POOL))
def test_avg_pool2d_is_exactly_the_reference(case, dtype, isa, rng):
    """Sums of integers are exact, and one division is rounded in one way."""
    x = integers(case.input_shape, rng, dtype, largest=9)
    for divisors in DIVISORS:
        expected = reference.avg_pool2d(x, case.kernel, **case.arguments, **divisors)
        for order in ("C", "channels_last"):
            y = fc.avg_pool2d(in_order(x, order), case.kernel, **case.arguments, **divisors)
            assert y.dtype == dtype
            assert_exact(y, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params(POOL))
def test_avg_pool2d_backward_is_the_reference(case, dtype, isa, rng):
    for divisors in DIVISORS:
        arguments = {"kernel_size": case.kernel, **case.arguments, **divisors}
        shape = fc.pool2d_output_shape(case.input_shape, case.kernel, **case.arguments)
        grads = integers(shape, rng, dtype)
        expected = reference.avg_pool2d_backward(grads, case.input_shape, **arguments)
        size = reference.avg_pool2d_backward(abs(grads), case.input_shape, **arguments)
        bound = np.finfo(dtype).eps * abs(size) * (case.kernel[0] * case.kernel[1] + 1)
        for order in ("C", "channels_last"):
            out = poisoned(case.input_shape, dtype, order)
            fc.avg_pool2d_backward(in_order(grads, order), case.input_shape, **arguments, out=out)
            assert_within_bound(out, expected, bound)
            # Shares that are integers leave nothing to round.
            whole = grads * dtype(case.kernel[0] * case.kernel[1])
            if divisors == {} and not case.ceil_mode:
                result = fc.avg_pool2d_backward(in_order(whole, order), out.shape, **arguments)
                assert_exact(result, reference.avg_pool2d_backward(whole, out.shape, **arguments))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("channels", [128, 144, 300, 600])
def test_images_from_any_address(channels, dtype, isa, rng):
    """Large windows over many channels go on at a vector's boundary, wherever the image begins."""
    shape = (2, channels, 5, 6)
    x = integers(shape, rng, dtype)
    expected = reference.avg_pool2d(x, (4, 5), stride=1)
    buffer = np.zeros(x.size + 17, dtype)
    for offset in range(17):
        given = buffer[offset:][: x.size].reshape(2, 5, 6, channels).transpose(0, 3, 1, 2)
        given[...] = x
        assert_exact(fc.avg_pool2d(given, (4, 5), stride=1), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_channels_of_windows_with_unequal_divisors(dtype, isa, rng):
    """Sums that go on in a run of their own, over more lanes than one wide pass has."""
    shape, arguments = (1, 144, 20, 19), {"kernel_size": 9, "stride": 1, "padding": 4}
    grads = integers(shape, rng, dtype)
    for divisors in DIVISORS:
        expected = reference.avg_pool2d_backward(grads, shape, **arguments, **divisors)
        size = reference.avg_pool2d_backward(abs(grads), shape, **arguments, **divisors)
        actual = fc.avg_pool2d_backward(
            in_order(grads, "channels_last"), shape, **arguments, **divisors
        )
        assert_within_bound(actual, expected, np.finfo(dtype).eps * abs(size) * 82)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    "case",
    params(
        [
            pool("n2c19h7w6-k3-st2-pad1"),
            pool("n2c3h9w40-k3-st2-pad1-ceil"),
            pool("n2c2h5w50-k3-st3"),
            pool("n1c2h6w37-k2x3-st1-pad0x1"),
        ]
    ),
)
def test_any_memory_order(case, order, isa, rng):
    x = integers(case.input_shape, rng)
    arguments = {"kernel_size": case.kernel, **case.arguments, "count_include_pad": False}
    y = fc.avg_pool2d(in_order(x, order), **arguments)
    assert_exact(y, reference.avg_pool2d(x, **arguments))
    grads = integers(y.shape, rng)
    out = poisoned(x.shape, order=order)
    fc.avg_pool2d_backward(in_order(grads, order), x.shape, **arguments, out=out)
    expected = reference.avg_pool2d_backward(grads, x.shape, **arguments)
    assert_within_bound(out, expected, 1e-5)
    assert_only_wrote(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "channels_last", "sliced", "reversed"])
@pytest.mark.parametrize(("shape", "size"), ADAPTIVE, ids=str)
def test_adaptive_pooling_is_the_reference(shape, size, order, dtype, isa, rng):
    x = integers(shape, rng, dtype)
    given = in_order(x, order)
    eps = np.finfo(dtype).eps
    expected = reference.adaptive_avg_pool2d(x, size)
    assert_within_bound(fc.adaptive_avg_pool2d(given, size), expected, 4 * eps * 3)
    expected, expected_indices = reference.adaptive_max_pool2d(x, size, return_indices=True)
    y, indices = fc.adaptive_max_pool2d(given, size, return_indices=True)
    assert_exact(y, expected)
    assert_exact(indices, expected_indices)
    assert_exact(fc.adaptive_max_pool2d(given, size), expected)
    grads = in_order(integers(y.shape, rng, dtype), order)
    expected = reference.adaptive_max_pool2d_backward(grads, indices, shape)
    assert_exact(fc.adaptive_max_pool2d_backward(grads, indices, shape), expected)
    expected = reference.adaptive_avg_pool2d_backward(grads, shape)
    out = poisoned(shape, dtype, order)
    fc.adaptive_avg_pool2d_backward(grads, shape, out=out)
    assert_within_bound(out, expected, 16 * eps * 3)


@pytest.mark.parametrize("order", ["C", "channels_last"])
def test_global_average(order, isa, rng):
    """The error bound is that of blocks of 256 terms, not of one sum of H W terms."""
    x = (rng.random((2, 21, 61, 67)) + 1).astype(np.float32)
    y = fc.global_avg_pool2d(in_order(x, order))
    expected = x.astype(np.float64).mean(axis=(2, 3), keepdims=True)
    terms = 256 + 61 * 67 / 256 + 2
    assert_within_bound(y, expected, terms * np.finfo(np.float32).eps / 2 * expected)
    grads = in_order(integers(y.shape, rng), order)
    expected = reference.global_avg_pool2d_backward(grads, x.shape)
    assert_exact(fc.global_avg_pool2d_backward(grads, x.shape), expected)


def test_the_order_of_a_global_gradient():
    x = np.zeros((2, 5, 4, 3), np.float32)
    for ordered in (x, fc.channels_last(x)):
        grad = fc.global_avg_pool2d_backward(fc.global_avg_pool2d(ordered), x.shape)
        assert grad.strides == ordered.strides


@pytest.mark.parametrize("order", ["C", "channels_last", "transposed"])
def test_same_bits_for_any_threads_batch_and_order(order, isa, rng):
    x = rng.normal(size=(5, 35, 23, 41)).astype(np.float32)
    grads = rng.normal(size=(5, 35, 12, 21)).astype(np.float32)
    functions = [
        (x, lambda a: fc.avg_pool2d(a, 3, stride=2, padding=1)),
        (x, fc.global_avg_pool2d),
        (x, lambda a: fc.adaptive_avg_pool2d(a, (5, 7))),
        (
            grads,
            lambda a: fc.avg_pool2d_backward(
                a, (len(a), 35, 23, 41), 3, stride=2, padding=1, count_include_pad=False
            ),
        ),
    ]
    threads = fc.get_num_threads()
    try:
        for value, function in functions:
            fc.set_num_threads(1)
            expected = function(value)
            for count in (1, 2, 3):
                fc.set_num_threads(count)
                assert_exact(function(in_order(value, order)), expected)
            assert_exact(function(in_order(value[2:3], order)), expected[2:3])
    finally:
        fc.set_num_threads(threads)


def test_avg_pool1d_and_single_images(rng):
    x = integers((2, 5, 37), rng)
    assert_exact(fc.avg_pool1d(x, 4, padding=(1, 2)), reference.avg_pool1d(x, 4, padding=(1, 2)))
    image = integers((5, 9, 8), rng)
    assert_exact(fc.avg_pool2d(image, 2), reference.avg_pool2d(image, 2))
    assert fc.global_avg_pool2d(image).shape == (5, 1, 1)
    assert fc.adaptive_avg_pool2d(image, (None, 4)).shape == (5, 9, 4)


@pytest.mark.parametrize("size", [(40000, 2, 3), (2, 40000, 17), (1, 3, 70000)])
def test_windows_too_large_for_a_strip(size, rng):
    """Scratch is bounded: what does not fit is read in place, element by element."""
    h, w, c = size
    x = integers((1, c, h, w), rng, np.float64)[:, ::-1]
    expected = x.mean(axis=(2, 3), keepdims=True)
    assert_within_bound(fc.global_avg_pool2d(x), expected, 1e-12)
    assert_within_bound(
        fc.global_avg_pool2d(x[:, :, ::2, ::-1]),
        x[:, :, ::2].mean(axis=(2, 3), keepdims=True),
        1e-12,
    )
    _, indices = fc.adaptive_max_pool2d(x, 1, return_indices=True)
    assert_exact(indices.ravel(), x.reshape(c, -1).argmax(axis=1))


X = np.zeros((2, 3, 8, 9), np.float32)
Y = np.zeros((2, 3, 4, 4), np.float32)
INDICES = np.zeros((2, 3, 4, 4), np.int64)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: fc.max_pool2d(X[0, 0], 2), ValueError, "max_pool2d: x has 2 dimensions"),
        (lambda: fc.max_pool2d(X.astype(np.int32), 2), TypeError, "x has dtype int32"),
        (lambda: fc.max_pool2d(X, 0), ValueError, "kernel_size is 0; wanted at least 1"),
        (lambda: fc.max_pool2d(X, 2.5), TypeError, "max_pool2d: kernel_size is 2.5"),
        (lambda: fc.max_pool2d(X, 10), ValueError, "along the height: input 8"),
        (lambda: fc.max_pool2d(X, 2, padding=2), ValueError,
         "padding is 2, 2 along the height; wanted less than the window's extent (2 - 1) * 1 + 1 = "
         "2: a window wholly in padding"),
        (lambda: fc.avg_pool2d(X, 2, padding=((0, 0), (0, 3))), ValueError, "3 along the width"),
        (lambda: fc.avg_pool2d(X, 2, divisor_override=0), ValueError, "divisor_override is 0"),
        (lambda: fc.avg_pool2d(X, 2, divisor_override=1.5), TypeError, "divisor_override is 1.5"),
        (lambda: fc.max_pool2d_backward(X, INDICES, X.shape, 2), ValueError,
         "grad_output has shape (2, 3, 8, 9), but the output for input_shape (2, 3, 8, 9) is "
         "(2, 3, 4, 4)"),
        (lambda: fc.max_pool2d_backward(Y, INDICES[:1], X.shape, 2), ValueError,
         "max_pool2d_backward: indices has shape (1, 3, 4, 4)"),
        (lambda: fc.max_pool2d_backward(Y, Y, X.shape, 2), TypeError,
         "max_pool2d_backward: indices has dtype float32, wanted int64"),
        (lambda: fc.max_pool2d_backward(Y, INDICES, (3, 8, 9), 2), ValueError,
         "input_shape is (3, 8, 9); wanted four sizes"),
        (lambda: fc.avg_pool2d_backward(Y, X.shape, 2, out=Y), ValueError, "out has shape"),
        (lambda: fc.avg_pool2d_backward(Y, X.shape, 2, out=X.astype(float)), TypeError,
         "avg_pool2d_backward: out has dtype float64"),
        (lambda: fc.avg_pool2d_backward(Y, Y.shape, 1, out=Y), ValueError, "out overlaps"),
        (lambda: fc.adaptive_avg_pool2d(X, (2, 2, 2)), TypeError, "output_size is (2, 2, 2)"),
        (lambda: fc.adaptive_max_pool2d(X, 0), ValueError, "output_size is 0"),
        (lambda: fc.global_avg_pool2d(X[:, :, :0]), ValueError, "over images 0 x 9"),
        (lambda: fc.global_avg_pool2d_backward(Y, X.shape), ValueError, "(2, 3, 1, 1)"),
        (lambda: fc.adaptive_avg_pool2d_backward(Y, (2, 4, 8, 9)), ValueError, "N and C"),
        (lambda: fc.max_unpool2d(Y, INDICES, output_size=2.5), TypeError, "output_size is 2.5"),
        (lambda: fc.max_pool1d(X, 2), ValueError, "max_pool1d: x has shape (2, 3, 8, 9)"),
    ],
)  # fmt: skip
def test_messages_say_what_is_wrong(call, error, words):
    with pytest.raises(error) as caught:
        call()
    assert words in str(caught.value)


@pytest.mark.parametrize("arguments", [{}, {"stride": 1, "padding": 1}, {"ceil_mode": True}])
def test_output_shape(arguments):
    for size in range(2, 12):
        shape = (1, 2, size, size + 1)
        assert fc.pool2d_output_shape(shape, 2, **arguments) == reference.pool2d_output_shape(
            shape, 2, **arguments
        )


@pytest.mark.parametrize("layer", [fc.layers.GlobalAvgPool2d(), fc.layers.AdaptiveAvgPool2d(1)])
def test_layers_give_gradients_in_the_order_of_x(layer, rng):
    """The gradient that comes back through a linear layer has lost the order."""
    x = integers((2, 5, 4, 3), rng)
    for ordered in (x, fc.channels_last(x)):
        flatten = fc.layers.Flatten()
        y = flatten(layer(ordered))
        grad = layer.backward(flatten.backward(np.ones(y.shape, np.float32)))
        assert_exact(grad, np.full(x.shape, 1 / 12, np.float32))
        assert grad.strides == ordered.strides
