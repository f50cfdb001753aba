"""Max pooling, its gradient and unpooling: every instruction set against the reference."""

import fastconv as fc
import numpy as np
import pytest
from cases import MAX_POOL, pool
from fastconv import reference
from support import ORDERS, assert_exact, assert_only_wrote, in_order, integers, params, poisoned

DTYPES = [np.float32, np.float64]
INF, NAN = np.inf, np.nan

# Every memory order on shapes on both sides of each choice the plan makes: lanes along channels,
# along the width, strips transposed to scratch, a stride undone by splitting lines.
ORDER_CASES = [
    pool("n2c19h7w6-k3-st2-pad1"),
    pool("n2c3h9w40-k3-st2-pad1-ceil"),
    pool("n1c2h6w37-k2x3-st1-pad0x1"),
    pool("n2c2h5w50-k3-st3"),
    pool("n1c70h9w9-k3x2-st2x1-pad1x0-dil2x3"),
    pool("n3c1h4w33-k2"),
]


def values(shape, rng, dtype):
    """Few different integers, so that windows have ties, with NaN and -inf among them."""
    x = integers(shape, rng, dtype, largest=2)
    x[rng.random(x.shape) < 0.04] = NAN
    x[rng.random(x.shape) < 0.15] = -INF
    return x


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params(MAX_POOL))
def test_max_pool2d_is_the_reference(case, dtype, isa, rng):
    x = values(case.input_shape, rng, dtype)
    expected, expected_indices = reference.max_pool2d(
        x, case.kernel, return_indices=True, **case.max_arguments
    )
    for order in ("C", "channels_last"):
        given = in_order(x, order)
        y, indices = fc.max_pool2d(given, case.kernel, return_indices=True, **case.max_arguments)
        assert (y.dtype, indices.dtype) == (dtype, np.int64)
        assert_exact(y, expected)
        assert_exact(indices, expected_indices)
        assert_exact(fc.max_pool2d(given, case.kernel, **case.max_arguments), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", params(MAX_POOL))
def test_max_pool2d_backward_is_the_reference(case, dtype, isa, rng):
    x = values(case.input_shape, rng, dtype)
    y, indices = reference.max_pool2d(x, case.kernel, return_indices=True, **case.max_arguments)
    grads = integers(y.shape, rng, dtype)
    arguments = {"kernel_size": case.kernel, **case.max_arguments}
    expected = reference.max_pool2d_backward(grads, indices, x.shape, **arguments)
    for order in ("C", "channels_last"):
        out = poisoned(x.shape, dtype, order)
        given = in_order(grads, order), in_order(indices, order)
        assert fc.max_pool2d_backward(*given, x.shape, **arguments, out=out) is out
        assert_exact(out, expected)
        assert_exact(fc.max_pool2d_backward(*given, x.shape, **arguments), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("case", params(ORDER_CASES))
def test_any_memory_order(case, order, isa, rng):
    x = values(case.input_shape, rng, np.float32)
    arguments = {"kernel_size": case.kernel, **case.max_arguments}
    expected, expected_indices = reference.max_pool2d(x, return_indices=True, **arguments)
    y, indices = fc.max_pool2d(in_order(x, order), return_indices=True, **arguments)
    assert_exact(y, expected)
    assert_exact(indices, expected_indices)
    grads = integers(y.shape, rng)
    expected = reference.max_pool2d_backward(grads, expected_indices, x.shape, **arguments)
    for out_order in (order, "C"):
        for index_order in (order, "channels_last"):
            out = poisoned(x.shape, order=out_order)
            places = in_order(indices, index_order)
            fc.max_pool2d_backward(in_order(grads, order), places, x.shape, **arguments, out=out)
            assert_exact(out, expected)
            assert_only_wrote(out)


@pytest.mark.parametrize("order", ["C", "channels_last"])
def test_nan_propagates_from_every_lane(order, isa):
    """Body and tail of the vectors give the same answer, whatever the width."""
    for size in range(1, 34):
        along_channels = order == "channels_last"
        shape = (1, size, 2, 2) if along_channels else (1, 1, 2, 2 * size)
        clean = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        for lane in range(size):
            for tap in range(4):
                x = in_order(clean, order)
                r, s = divmod(tap, 2)
                place = (0, lane, r, s) if along_channels else (0, 0, r, 2 * lane + s)
                x[place] = NAN
                y, indices = fc.max_pool2d(x, 2, return_indices=True)
                hit = (0, lane, 0, 0) if along_channels else (0, 0, 0, lane)
                wanted = np.zeros(y.shape, bool)
                wanted[hit] = True
                assert_exact(np.isnan(y), wanted)
                assert_exact(np.isnan(fc.max_pool2d(x, 2)), wanted)
                assert indices[hit] == place[2] * shape[3] + place[3]


@pytest.mark.parametrize("order", ["C", "channels_last"])
def test_ties_infinities_and_the_first_nan(order, isa):
    x = np.array([[-INF, -INF, 0.0, -0.0, NAN, 1, 2, NAN], [-INF, -INF, 0.0, 0.0, NAN, NAN, 2, 2]])
    x = in_order(np.broadcast_to(x, (1, 17, 2, 8)).astype(np.float32), order)
    y, indices = fc.max_pool2d(x, 2, return_indices=True)
    assert_exact(y[0, 3, 0], np.array([-INF, 0, NAN, NAN], np.float32))
    assert_exact(indices[0, 3, 0], np.array([0, 2, 4, 7]))
    grads = np.ones(y.shape, np.float32)
    grad_input = fc.max_pool2d_backward(in_order(grads, order), indices, x.shape, 2)
    assert_exact(np.flatnonzero(grad_input[0, 16]), np.array([0, 2, 4, 7]))
    flipped = in_order(-x[:, :, :, 2:4], order)  # -0.0 first
    assert np.signbit(fc.max_pool2d(flipped, 2)).all()


def test_a_window_without_an_input_element(isa):
    x = np.full((1, 18, 2, 2), 5.0, np.float32)
    for order in ("C", "channels_last"):
        arguments = {"stride": 1, "padding": 2, "dilation": 3}
        y, indices = fc.max_pool2d(in_order(x, order), 2, return_indices=True, **arguments)
        assert ((indices == -1) == (y == -INF)).all()
        assert (indices == -1).any()
        grads = np.full(y.shape, 7.0, np.float32)
        grad = fc.max_pool2d_backward(grads, indices, x.shape, 2, **arguments)
        assert_exact(grad, reference.max_pool2d_backward(grads, indices, x.shape, 2, **arguments))


@pytest.mark.parametrize("order", ["C", "channels_last", "transposed"])
def test_same_bits_for_any_threads_and_batch(order, isa, rng, threads_restored):
    x = in_order(rng.normal(size=(5, 35, 23, 41)).astype(np.float32), order)
    y, indices = fc.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    grads = in_order(rng.normal(size=y.shape).astype(np.float32), order)
    first = None
    for threads in (1, 2, 3):
        fc.set_num_threads(threads)
        again, _ = fc.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
        assert_exact(again, y)
        grad = fc.max_pool2d_backward(grads, indices, x.shape, 3, stride=2, padding=1)
        first = grad if first is None else first
        assert_exact(grad, first)
    one = fc.max_pool2d_backward(grads[3], indices[3], (1, *x.shape[1:]), 3, stride=2, padding=1)
    assert_exact(one, first[3])


def test_gradients_scattered_or_gathered_have_the_same_bits(isa, rng):
    x = rng.normal(size=(2, 40, 13, 11)).astype(np.float32)
    x[rng.random(x.shape) < 0.8] = 0  # large ones among equal ones: taken by up to nine windows
    y, indices = fc.max_pool2d(x, 3, stride=1, padding=1, return_indices=True)
    grads = rng.normal(size=y.shape).astype(np.float32)
    results = []
    for order in ORDERS:
        out = poisoned(x.shape, order=order)
        given = in_order(grads, order), in_order(indices, order)
        fc.max_pool2d_backward(*given, x.shape, 3, stride=1, padding=1, out=out)
        assert_only_wrote(out)
        results.append(out)
    for result in results:
        assert_exact(result, results[0])


@pytest.mark.parametrize("dtype", DTYPES)
def test_indices_beyond_32_bits_take_nothing(dtype, isa, rng):
    """The gradient compares narrow copies of the indices where lanes are float32 channels."""
    x = fc.channels_last(rng.normal(size=(2, 70, 9, 7)).astype(dtype))
    y, indices = fc.max_pool2d(x, 3, stride=1, padding=1, return_indices=True)
    grads = in_order(integers(y.shape, rng, dtype), "channels_last")
    wrong = rng.random(y.shape) < 0.3
    kept = np.where(wrong, -1, indices)
    expected = reference.max_pool2d_backward(grads, kept, x.shape, 3, stride=1, padding=1)
    for add in (2**32, -(2**32), 2**31, 2**40):
        given = in_order(np.where(wrong, indices + add, indices), "channels_last")
        actual = fc.max_pool2d_backward(grads, given, x.shape, 3, stride=1, padding=1)
        assert_exact(actual, expected)


@pytest.mark.parametrize("shape", [(1, 530, 9, 11), (2, 833, 7, 7), (1, 96, 61, 40)])
def test_gradients_of_many_channels_and_rows(shape, isa, rng):
    """Cut into tasks by channels and by rows, whose windows overlap the next task's."""
    x = integers(shape, rng)
    arguments = {"kernel_size": 3, "stride": 1, "padding": 1}
    _, indices = fc.max_pool2d(fc.channels_last(x), return_indices=True, **arguments)
    grads = integers(shape, rng)
    expected = reference.max_pool2d_backward(grads, indices, shape, **arguments)
    out = poisoned(shape, order="channels_last")
    fc.max_pool2d_backward(fc.channels_last(grads), indices, shape, out=out, **arguments)
    assert_exact(out, expected)
    assert_only_wrote(out)


@pytest.fixture
def threads_restored():
    threads = fc.get_num_threads()
    yield
    fc.set_num_threads(threads)


def test_strides_far_beyond_the_image(isa):
    """The work follows the image, not the stride."""
    x = np.arange(60, dtype=np.float32).reshape(1, 2, 5, 6)
    arguments = {"kernel_size": 3, "stride": 10**9, "ceil_mode": True}
    y, indices = fc.max_pool2d(x, return_indices=True, **arguments)
    assert_exact(y.ravel(), np.array([14, 44], np.float32))
    grad = fc.max_pool2d_backward(y, indices, x.shape, **arguments)
    assert_exact(np.flatnonzero(grad), np.array([14, 44]))
    mean = fc.avg_pool2d(fc.channels_last(x), **arguments)
    assert_exact(mean.ravel(), np.array([7, 37], np.float32))
    grad = fc.avg_pool2d_backward(fc.channels_last(mean * 9), x.shape, **arguments)
    assert_exact(grad[0, :, :3, :3], np.broadcast_to(mean[0], (2, 3, 3)))
    assert not grad[0, :, 3:].any()


def test_results_have_the_order_of_x():
    x = np.zeros((2, 5, 8, 9), np.float32)
    assert fc.max_pool2d(x, 2).flags.c_contiguous
    for result in fc.max_pool2d(fc.channels_last(x), 2, return_indices=True):
        assert fc.is_channels_last(result)
    y, indices = fc.max_pool2d(fc.channels_last(x)[:, 1:4], 2, return_indices=True)
    assert fc.is_channels_last(y)
    assert fc.is_channels_last(fc.max_pool2d_backward(y, indices, (2, 3, 8, 9), 2))
    assert fc.max_pool2d(x[0], 2).shape == (5, 4, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ORDERS)
def test_unpooling_is_the_reference(order, dtype, rng):
    x = integers((2, 19, 7, 6), rng, dtype)
    y, indices = reference.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
    indices[0, 0, 1, 1] = -1
    given = in_order(y, order), in_order(indices, order)
    expected = reference.max_unpool2d(y, indices, output_size=(7, 6))
    assert_exact(fc.max_unpool2d(*given, output_size=(7, 6)), expected)
    assert_exact(fc.max_unpool2d(given[0][1], given[1][1], output_size=(7, 6)), expected[1])
    grads = integers(x.shape, rng, dtype)
    expected = reference.max_unpool2d_backward(grads, indices)
    assert_exact(fc.max_unpool2d_backward(in_order(grads, order), given[1]), expected)


@pytest.mark.parametrize("outside", [-2, 42, 2**40])
def test_unpooling_names_an_index_outside(outside):
    y = np.zeros((1, 3, 2, 2), np.float32)
    indices = np.zeros(y.shape, np.int64)
    indices[0, 2, 1, 1] = outside
    with pytest.raises(ValueError, match=f"max_unpool2d: indices has {outside}; wanted -1 or 0"):
        fc.max_unpool2d(y, indices, output_size=(7, 6))
    with pytest.raises(ValueError, match=f"max_unpool2d_backward: indices has {outside}; wanted"):
        fc.max_unpool2d_backward(np.zeros((1, 3, 7, 6), np.float32), indices)


def test_max_pool1d_is_the_reference(rng):
    x = integers((2, 5, 37), rng)
    for arguments in ({}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": (0, 3)}):
        expected = reference.max_pool1d(x, 3, return_indices=True, **arguments)
        for actual, wanted in zip(
            fc.max_pool1d(x, 3, return_indices=True, **arguments), expected, strict=True
        ):
            assert_exact(actual, wanted)
        assert_exact(fc.max_pool1d(x[0], 3, **arguments), expected[0][0])


def test_against_torch(rng):
    torch = pytest.importorskip("torch")
    x = rng.permutation(2 * 18 * 30 * 31).reshape(2, 18, 30, 31).astype(np.float32)
    arguments = {"stride": 2, "padding": 1, "ceil_mode": True, "return_indices": True}
    for memory_format in (torch.contiguous_format, torch.channels_last):
        tensor = torch.from_numpy(x).to(memory_format=memory_format)
        y, indices = fc.max_pool2d(tensor, 3, **arguments)
        assert isinstance(y, torch.Tensor)
        expected = torch.nn.functional.max_pool2d(tensor, 3, **arguments)
        assert torch.equal(y, expected[0])
        assert torch.equal(indices, expected[1])
        assert y.is_contiguous(memory_format=memory_format)
