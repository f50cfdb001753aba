"""Softmax, log-softmax and cross-entropy, within bounds of their arithmetic."""

import fastconv as fc
import numpy as np
import pytest
from fastconv import reference
from support import (
    ORDERS,
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    float64,
    in_order,
    normals,
    poisoned,
)

DTYPES = (np.float32, np.float64)
# One line: exp within 2 ulp of x - m, itself rounded; the sum and two more roundings. Lines here
# have at most 2000 terms in at most 512-term blocks, sums of positive numbers.
EXP_ULPS = 8


def softmax_bound(y, x, dtype):
    """Relative to the probability; more where x - m is large and so rounded coarsely."""
    spread = np.abs(x - x.max())
    return (EXP_ULPS + spread.max() + 20) * np.finfo(dtype).eps * np.abs(y) + np.finfo(dtype).tiny


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_forward_and_backward(isa, rng, axis, dtype):
    for shape in [(1, 1), (3, 10), (17, 33), (65, 7), (5, 130), (2000, 3), (2, 2000), (66, 66)]:
        x, g = normals(shape, rng, dtype) * 3, normals(shape, rng, dtype)
        wide_x, wide_g = float64(x, g)
        y, expected = fc.softmax(x, axis), reference.softmax(wide_x, axis)
        bound = softmax_bound(expected, wide_x, dtype)
        assert_within_bound(y, expected, bound)
        logs = fc.log_softmax(x, axis)
        assert_within_bound(logs, reference.log_softmax(wide_x, axis), 32 * 4 * np.finfo(dtype).eps)
        wide_y, wide_logs = float64(y, logs)
        scale = np.finfo(dtype).eps * max(shape)
        total = np.abs(wide_g * wide_y).sum(axis, keepdims=True) + np.abs(wide_g)
        assert_within_bound(
            fc.softmax_backward(g, y, axis),
            reference.softmax_backward(wide_g, wide_y, axis),
            scale * 4 * wide_y * total,
        )
        total = np.abs(wide_g).sum(axis, keepdims=True)
        assert_within_bound(
            fc.log_softmax_backward(g, logs, axis),
            reference.log_softmax_backward(wide_g, wide_logs, axis),
            scale * 4 * (np.exp(wide_logs) * total + np.abs(wide_g)),
        )


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_any_memory_order(isa, rng, axis, order):
    """Bits do not depend on the order: a line is summed alike wherever its neighbours lie, except
    that rows are summed by lanes and columns one by one."""
    x, g = normals((3, 5, 4, 70), rng), normals((3, 5, 4, 70), rng)
    for name in ("softmax", "log_softmax"):
        forward, backward = getattr(fc, name), getattr(fc, name + "_backward")
        expected = getattr(reference, name)(x, axis)
        out = poisoned(x.shape, order=order)
        forward(in_order(x, order), axis, out=out)
        np.testing.assert_allclose(out, expected, rtol=3e-6)
        assert_only_wrote(out)
        np.testing.assert_allclose(forward(in_order(x, order), axis), expected, rtol=3e-6)
        grad = getattr(reference, name + "_backward")(g, expected, axis)
        for other in ("C", "channels_last", "reversed"):
            ours = backward(in_order(g, order), in_order(expected, other), axis)
            np.testing.assert_allclose(ours, grad, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_same_bits_for_any_thread_count_and_batch(isa, rng, axis):
    x = normals((300, 301), rng)
    lines = np.moveaxis(x, axis, 1)
    expected = fc.softmax(x, axis)
    before = fc.get_num_threads()
    try:
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            assert_exact(fc.softmax(x, axis), expected)
    finally:
        fc.set_num_threads(before)
    few = np.moveaxis(lines[5:9], 1, axis)
    assert_exact(np.moveaxis(fc.softmax(few, axis), axis, 1), np.moveaxis(expected, axis, 1)[5:9])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("axis", [0, 1])
def test_special_values(isa, name, axis):
    inf, nan = np.inf, np.nan
    lines = [[1, nan, 2], [nan, 1, 2], [1, 2, nan], [inf, 1, 2], [-inf] * 3, [-inf, 0, 1],
             [1e30, -1e30, 1e30], [0, -0.0, 0], [-1000, 1000, 999]]  # fmt: skip
    for length in (3, 16, 40):
        x = np.array([line + [-3.0] * (length - 3) for line in lines], np.float32)
        x = x if axis == 1 else np.ascontiguousarray(x.T)
        with np.errstate(invalid="ignore", over="ignore"):
            expected = getattr(reference, name)(x, axis)
        np.testing.assert_allclose(getattr(fc, name)(x, axis), expected, rtol=1e-6)


def test_a_line_longer_than_scratch(rng):
    x = normals((1_200_000, 2), rng)[:, ::-1][:, :1]
    y = fc.softmax(x, 0)
    np.testing.assert_allclose(y, reference.softmax(x.astype(np.float64), 0), rtol=1e-5)
    assert abs(y.astype(np.float64).sum() - 1) < 1e-5


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (4,), (2, 3, 4)])
def test_shapes(shape):
    x = np.ones(shape, np.float32)
    for axis in range(len(shape)):
        assert_exact(fc.softmax(x, axis), reference.softmax(x, axis))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(isa, rng, reduction, smoothing, dtype):
    tolerance = 40 * np.finfo(dtype).eps
    for n, classes in [(1, 1), (5, 10), (33, 17), (7, 1000), (129, 3)]:
        x = normals((n, classes), rng, dtype) * 5
        target = rng.integers(0, classes, n)
        settings = {"label_smoothing": smoothing, "reduction": reduction}
        weights = normals((n,), rng, dtype) if reduction == "none" else 2.0
        expected = reference.cross_entropy(x.astype(np.float64), target, **settings)
        grad = reference.cross_entropy_backward(
            x.astype(np.float64), target, grad_output=weights, **settings
        )
        for order in ("C", "transposed", "sliced", "reversed"):
            strided = in_order(x, order)
            loss = fc.cross_entropy(strided, target, **settings)
            assert loss.dtype == dtype
            np.testing.assert_allclose(loss, expected, rtol=tolerance, atol=tolerance * 5)
            ours = fc.cross_entropy_backward(strided, target, grad_output=weights, **settings)
            np.testing.assert_allclose(ours, grad, rtol=tolerance * 2, atol=tolerance * 2)
            out = poisoned(x.shape, dtype, order)
            fc.cross_entropy_backward(x, target, grad_output=weights, out=out, **settings)
            assert_exact(out, fc.cross_entropy_backward(x, target, grad_output=weights, **settings))
            assert_only_wrote(out)


def test_cross_entropy_of_impossible_classes(isa):
    x = np.array([[0, -np.inf, 1], [0, -np.inf, 1], [np.nan, 0, 1]], np.float32)
    target = np.array([0, 1, 1])
    for smoothing in (0.0, 0.5, 1.0):
        with np.errstate(invalid="ignore"):
            expected = reference.cross_entropy(
                x, target, label_smoothing=smoothing, reduction="none"
            )
        ours = fc.cross_entropy(x, target, label_smoothing=smoothing, reduction="none")
        np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_cross_entropy_of_no_rows():
    x, target = np.ones((0, 3), np.float32), np.ones(0, np.int64)
    assert np.isnan(fc.cross_entropy(x, target))
    assert fc.cross_entropy(x, target, reduction="sum") == 0
    assert fc.cross_entropy(x, target, reduction="none").shape == (0,)
    assert fc.cross_entropy_backward(x, target).shape == (0, 3)


def test_targets_of_any_integer_width_and_stride(rng):
    x, target = normals((6, 4), rng), np.array([3, 0, 1, 2, 2, 0])
    expected = fc.cross_entropy(x, target)
    for dtype in (np.uint8, np.int8, np.int32, np.uint64):
        assert fc.cross_entropy(x, target.astype(dtype)) == expected
    assert fc.cross_entropy(x, np.repeat(target, 3)[::3]) == expected
    assert fc.cross_entropy(x, target[::-1].copy()[::-1]) == expected


def test_cross_entropy_threads(isa, rng):
    x, target = normals((600, 100), rng), rng.integers(0, 100, 600)
    before = fc.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            fc.set_num_threads(threads)
            results.append((fc.cross_entropy(x, target), fc.cross_entropy_backward(x, target)))
    finally:
        fc.set_num_threads(before)
    for loss, grad in results[1:]:
        assert loss == results[0][0]
        assert_exact(grad, results[0][1])


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradients(rng, smoothing):
    target = np.array([4, 0, 2])

    def loss(x):
        return fc.cross_entropy(
            x, target, label_smoothing=smoothing
        ), lambda g: fc.cross_entropy_backward(x, target, label_smoothing=smoothing, grad_output=g)

    report = fc.gradcheck(loss, rng.standard_normal((3, 5)))
    assert report, report


def test_errors():
    x = np.ones((3, 4), np.float32)
    good = np.array([0, 1, 2])
    with pytest.raises(ValueError, match=r"cross_entropy: target\[1\] is 4, but .* 4 class"):
        fc.cross_entropy(x, np.array([0, 4, 9]))
    with pytest.raises(ValueError, match=r"_backward: target\[2\] is -1.*0 <= target < 4"):
        fc.cross_entropy_backward(x, np.array([0, 1, -1]))
    with pytest.raises(ValueError, match=r"target\[0\] is 18446744073709551615"):
        fc.cross_entropy(x, np.array([2**64 - 1, 0, 0], np.uint64))
    with pytest.raises(ValueError, match=r"target has shape \(2,\).*\(3, 4\) have 3 rows"):
        fc.cross_entropy(x, good[:2])
    with pytest.raises(TypeError, match=r"target has dtype float64.*integers"):
        fc.cross_entropy(x, good.astype(float))
    with pytest.raises(ValueError, match=r"reduction='avg'; wanted \"mean\""):
        fc.cross_entropy(x, good, reduction="avg")
    with pytest.raises(ValueError, match=r"label_smoothing=1.5"):
        fc.cross_entropy(x, good, label_smoothing=1.5)
    with pytest.raises(ValueError, match=r"logits have shape \(3,\); wanted \(N, C\)"):
        fc.cross_entropy(x[:, 0], good)
    with pytest.raises(ValueError, match=r"grad_output has shape \(2,\).*a number or \(3,\)"):
        fc.cross_entropy_backward(x, good, reduction="none", grad_output=np.ones(2))
    with pytest.raises(ValueError, match=r"softmax: axis=2, but x has 2 dimensions"):
        fc.softmax(x, 2)
    with pytest.raises(ValueError, match=r"out overlaps x"):
        fc.log_softmax(x, out=x)


def test_against_torch(isa, rng):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    x, target = normals((9, 21), rng), rng.integers(0, 21, 9)
    leaf = torch.from_numpy(x).requires_grad_()
    for smoothing in (0.0, 0.1):
        theirs = functional.cross_entropy(leaf, torch.from_numpy(target), label_smoothing=smoothing)
        (grad,) = torch.autograd.grad(theirs, leaf)
        tensors = torch.from_numpy(x), torch.from_numpy(target)
        ours = fc.cross_entropy(*tensors, label_smoothing=smoothing)
        assert abs(ours - float(theirs.detach())) < 1e-6
        assert isinstance(ours, torch.Tensor)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        ours = fc.cross_entropy_backward(*tensors, label_smoothing=smoothing)
        assert isinstance(ours, torch.Tensor)
        np.testing.assert_allclose(ours.numpy(), grad.numpy(), rtol=1e-5, atol=1e-8)
    images = normals((2, 5, 3, 4), rng)
    for axis in range(4):
        theirs = functional.softmax(torch.from_numpy(images), axis).numpy()
        np.testing.assert_allclose(fc.softmax(images, axis), theirs, rtol=1e-6)


def test_a_loss_is_of_its_logits_family(rng):
    torch = pytest.importorskip("torch")
    x, target = normals((3, 4), rng, np.float64), np.array([0, 3, 1])
    for reduction in ("mean", "sum"):
        ours = fc.cross_entropy(x, target, reduction=reduction)
        assert type(ours) is np.float64
        tensor = fc.cross_entropy(torch.from_numpy(x), target, reduction=reduction)
        assert isinstance(tensor, torch.Tensor)
        assert tensor.dtype == torch.float64
        assert tensor.shape == ()
        assert tensor.item() == ours
    loss = fc.layers.CrossEntropyLoss()
    assert isinstance(loss(torch.from_numpy(x), torch.from_numpy(target)), torch.Tensor)


def test_a_gradient_of_the_loss_may_be_a_tensor(rng):
    torch = pytest.importorskip("torch")
    x, target = normals((3, 4), rng), np.array([0, 3, 1])
    expected = fc.cross_entropy_backward(x, target, grad_output=2.0)
    assert_exact(fc.cross_entropy_backward(x, target, grad_output=torch.tensor(2.0)), expected)
    each = {"reduction": "none", "grad_output": torch.tensor([1.0, 2.0, 3.0])}
    expected = fc.cross_entropy_backward(x, target, reduction="none", grad_output=[1, 2, 3])
    assert_exact(fc.cross_entropy_backward(x, target, **each), expected)
    wanted = r"cross_entropy_backward: grad_output .* requires grad.*grad_output\.detach\(\)"
    for reduction, value in (("mean", 2.0), ("none", [1.0, 2.0, 3.0])):
        recorded = torch.tensor(value, requires_grad=True)
        with pytest.raises(TypeError, match=wanted):
            fc.cross_entropy_backward(x, target, reduction=reduction, grad_output=recorded)
