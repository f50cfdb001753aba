"""Checks of one convolution algorithm, forced by name, in all three directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import fastconv as fc
import numpy as np
from fastconv import reference
from support import (
    assert_exact,
    assert_only_wrote,
    assert_within_bound,
    float64,
    in_order,
    integers,
    normals,
    poisoned,
    sum_bound,
)


def operands(case: Any, rng: np.random.Generator, dtype: Any, make: Callable[..., Any] = integers):
    """x, weight, bias, grad_output."""
    x, weight = make(case.input_shape, rng, dtype), make(case.weight_shape, rng, dtype)
    shape = fc.conv2d_output_shape(x.shape, weight.shape, **_window(case))
    return x, weight, make((case.k,), rng, dtype), make(shape, rng, dtype)


def check_exact(case, algorithm, rng, dtype=np.float32, order="C"):
    """Integers: equal to the reference, nothing written elsewhere, nothing left unwritten."""
    x, weight, bias, grad = operands(case, rng, dtype)
    residual = integers(grad.shape, rng, dtype)
    moved = {
        name: in_order(array, order)
        for name, array in {"x": x, "w": weight, "b": bias, "g": grad, "r": residual}.items()
    }
    options = {"algorithm": algorithm, **case.arguments}

    y = reference.conv2d(x, weight, bias, **case.arguments)
    out = poisoned(y.shape, dtype, order)
    fc.conv2d(moved["x"], moved["w"], moved["b"], out=out, **options)
    assert_exact(out, y)
    assert_only_wrote(out)
    out = poisoned(y.shape, dtype, order)
    fc.conv2d(moved["x"], moved["w"], moved["b"], residual=moved["r"], activation="relu", out=out,
              **options)  # fmt: skip
    assert_exact(out, np.maximum(y + residual, 0))
    out = in_order(residual, order)
    fc.conv2d(moved["x"], moved["w"], residual=out, out=out, **options)
    assert_exact(out, y - bias[:, None, None] + residual)

    out = poisoned(x.shape, dtype, order)
    fc.conv2d_grad_input(moved["g"], moved["w"], x.shape, out=out, **options)
    assert_exact(out, reference.conv2d_grad_input(grad, weight, x.shape, **case.arguments))
    assert_only_wrote(out)

    out = poisoned(weight.shape, dtype, order)
    fc.conv2d_grad_weight(moved["g"], moved["x"], weight.shape, out=out, **options)
    expected = reference.conv2d_grad_weight(grad, x, weight.shape, **case.arguments)
    assert_exact(out, expected)
    assert_only_wrote(out)
    fc.conv2d_grad_weight(moved["g"], moved["x"], weight.shape, out=out, accumulate=True, **options)
    assert_exact(out, 2 * expected)


def check_bounds(case, algorithm, rng, dtype=np.float32):
    """Normal numbers: n eps sum |a| |b|, with n the depth of a direction."""
    x, weight, _, grad = operands(case, rng, dtype, normals)
    plain = float64(x, weight, grad)
    options = {"algorithm": algorithm, **case.arguments}
    taps = case.r * case.s
    for order in ("C", "channels_last"):
        y = fc.conv2d(in_order(x, order), weight, **options)
        bound = sum_bound(reference.conv2d, x, weight, terms=taps * case.c // case.groups,
                          dtype=dtype, **case.arguments)  # fmt: skip
        assert_within_bound(y, reference.conv2d(*plain[:2], **case.arguments), bound)

        dx = fc.conv2d_grad_input(in_order(grad, order), weight, x.shape, **options)
        expected = reference.conv2d_grad_input(plain[2], plain[1], x.shape, **case.arguments)
        bound = sum_bound(reference.conv2d_grad_input, grad, weight, dtype=dtype,
                          terms=taps * case.k // case.groups, input_shape=x.shape,
                          **case.arguments)  # fmt: skip
        assert_within_bound(dx, expected, bound)

        dw = fc.conv2d_grad_weight(in_order(grad, order), in_order(x, order), weight.shape,
                                   **options)  # fmt: skip
        expected = reference.conv2d_grad_weight(plain[2], plain[0], weight.shape, **case.arguments)
        bound = sum_bound(reference.conv2d_grad_weight, grad, x, dtype=dtype,
                          terms=max(1, grad[:, 0].size), weight_shape=weight.shape,
                          **case.arguments)  # fmt: skip
        assert_within_bound(dw, expected, bound)


def check_same_bits(case, algorithm, rng, dtype=np.float32):
    """For 1, 2, 3 and 16 threads; forward and grad_input for any batch."""
    shape = (3, *case.input_shape[1:])
    x, weight = normals(shape, rng, dtype), normals(case.weight_shape, rng, dtype)
    options = {"algorithm": algorithm, **case.arguments}
    grad = normals(fc.conv2d_output_shape(shape, weight.shape, **_window(case)), rng, dtype)
    for order in ("C", "channels_last"):
        x, grad = in_order(x, order), in_order(grad, order)

        def all_directions(x=x, grad=grad):
            return (
                fc.conv2d(x, weight, **options),
                fc.conv2d_grad_input(grad, weight, x.shape, **options),
                fc.conv2d_grad_weight(grad, x, weight.shape, **options),
            )

        before = fc.get_num_threads()
        try:
            fc.set_num_threads(1)
            one = all_directions()
            for threads in (2, 3, 16):
                fc.set_num_threads(threads)
                for actual, expected in zip(all_directions(), one, strict=True):
                    assert np.array_equal(actual, expected)
        finally:
            fc.set_num_threads(before)
        for n in range(3):
            assert np.array_equal(fc.conv2d(x[n], weight, **options), one[0][n])
            alone = fc.conv2d_grad_input(grad[n], weight, (1, *shape[1:]), **options)
            assert np.array_equal(alone, one[1][n])


def check_special_values(case, algorithm, value, rng, every_operand=False):
    """NaN and infinities reach the same elements as in the reference.

    In x, weight and grad_output for forward and `every_operand`; else grad_input and grad_weight
    only where padding cannot meet them (whether their padding takes part is left to an algorithm).
    """
    x, weight, _, grad = operands(case, rng, np.float32, normals)
    options = {"algorithm": algorithm, **case.arguments}

    def compare(actual, expected):
        assert np.array_equal(np.isnan(actual), np.isnan(expected))
        assert np.array_equal(np.isposinf(actual), np.isposinf(expected))
        assert np.array_equal(np.isneginf(actual), np.isneginf(expected))

    for name, operand in {"x": x, "weight": weight, "grad": grad}.items():
        place = (0, operand.shape[1] - 1, operand.shape[2] // 2, operand.shape[3] // 2)
        kept = operand[place]
        operand[place] = value
        with np.errstate(invalid="ignore"):
            if name != "grad":
                compare(fc.conv2d(x, weight, **options),
                        reference.conv2d(x, weight, **case.arguments))  # fmt: skip
            if name == "grad" or (name == "weight" and every_operand):
                compare(fc.conv2d_grad_input(grad, weight, x.shape, **options),
                        reference.conv2d_grad_input(
                            grad, weight, x.shape, **case.arguments))  # fmt: skip
            if name == "x" or (name == "grad" and every_operand):
                compare(fc.conv2d_grad_weight(grad, x, weight.shape, **options),
                        reference.conv2d_grad_weight(
                            grad, x, weight.shape, **case.arguments))  # fmt: skip
        operand[place] = kept


def _window(case: Any) -> dict[str, Any]:
    return {name: case.arguments[name] for name in ("stride", "padding", "dilation")}
