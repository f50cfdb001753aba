"""Operands of convolutions by TMA on CUDA: a tensor map describes few of the orders that memory can
have, and what it cannot describe must go elsewhere."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cases import CONV_CUDA, conv
from cuda_support import Array, Poisoned, directions, host, on_gpu, rounded
from fastconv import reference
from support import assert_exact, float64, integers

pytestmark = pytest.mark.kernels

BY_TMA = [
    (direction, kernel)
    for direction, function in directions().items()
    for kernel in fc.cuda.kernels(function)
    if kernel.startswith(("tma_", "patch_"))
]


@pytest.mark.parametrize(("direction", "kernel"), BY_TMA)
def test_cases_that_no_kernel_by_tma_refuses(direction: str, kernel: str) -> None:
    """Several of those that all kernels are tested with, though some ask for a unit stride and, for
    grad_weight, whole 8x8 tiles."""
    taken = 0
    for case in CONV_CUDA:
        geometry = {name: case.arguments[name] for name in ("stride", "padding", "dilation")}
        out = fc.conv2d_output_shape(case.input_shape, case.weight_shape, **geometry)
        shapes = {
            "conv2d": (case.input_shape, case.weight_shape),
            "conv2d_grad_input": (out, case.weight_shape, case.input_shape),
            "conv2d_grad_weight": (out, case.input_shape, case.weight_shape),
        }[direction]
        with fc.cuda.kernel(kernel):
            try:
                plan = fc.explain(
                    directions()[direction], *shapes, device="cuda:90x4", dtype="bfloat16",
                    **case.arguments,
                )  # fmt: skip
            except ValueError:
                continue
        assert plan.kernel == kernel
        taken += 1
    assert taken >= (2 if kernel == "patch_64x576" else 4)


def filters_fastest(weight: Array, dtype: str) -> fc.cuda.Array:
    """(K, C, R, S) in the order of (C, R, S, K)."""
    return on_gpu(np.ascontiguousarray(weight.transpose(1, 2, 3, 0)), dtype).transpose(3, 0, 1, 2)


BACKWARDS = {"images": np.s_[::-1], "rows": np.s_[:, :, ::-1], "columns": np.s_[..., ::-1]}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("name", BACKWARDS)
def test_images_that_run_backwards_in_memory(
    name: str, dtype: str, rng: np.random.Generator
) -> None:
    backwards = BACKWARDS[name]
    x, weight = integers((2, 16, 9, 8), rng), integers((24, 16, 3, 3), rng)
    grad = integers((2, 24, 9, 8), rng)
    dx, dw, dg = (on_gpu(a, dtype, "channels_last") for a in (x, weight, grad))
    expected = reference.conv2d(*float64(x[backwards], weight), padding=1)
    out = on_gpu(grad, dtype, "channels_last")
    assert_exact(host(fc.conv2d(dx[backwards], dw, padding=1)), rounded(expected, dtype))
    expected = reference.conv2d(*float64(x, weight), padding=1)
    fc.conv2d(dx, dw, padding=1, out=out[backwards])
    assert_exact(host(out[backwards]), rounded(expected, dtype))
    expected = reference.conv2d_grad_input(*float64(grad[backwards], weight), x.shape, padding=1)
    actual = fc.conv2d_grad_input(dg[backwards], dw, x.shape, padding=1)
    assert_exact(host(actual), rounded(expected, dtype))
    expected = reference.conv2d_grad_weight(*float64(grad, x[backwards]), weight.shape, padding=1)
    actual = fc.conv2d_grad_weight(dg, dx[backwards], weight.shape, padding=1)
    assert_exact(host(actual), rounded(expected, dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("order", ["channels_last", "filters_fastest", "C"])
@pytest.mark.parametrize("backwards", ["nothing", "rows", "filters"])
def test_weights_in_any_order(
    backwards: str, order: str, groups: int, dtype: str, rng: np.random.Generator
) -> None:
    """In place, K-major or MN-major, or packed: taps may run backwards, filters may not, and the
    groups of weights whose filters are neighbours do not follow each other."""
    case = conv(f"n2c{64 * groups}h9w8-k{64 * groups}r3s3-pad1-g{groups}")
    x, weight = integers(case.input_shape, rng), integers(case.weight_shape, rng)
    place = filters_fastest if order == "filters_fastest" else lambda a, t: on_gpu(a, t, order)
    kernel = place(weight, dtype)
    if backwards == "rows":
        weight, kernel = weight[:, :, ::-1], kernel[:, :, ::-1]
    elif backwards == "filters":
        weight, kernel = weight[::-1], kernel[::-1]
    dx = on_gpu(x, dtype, "channels_last")
    expected = reference.conv2d(*float64(x, weight), **case.arguments)
    assert_exact(host(fc.conv2d(dx, kernel, **case.arguments)), rounded(expected, dtype))
    grad = integers(expected.shape, rng)
    dg = on_gpu(grad, dtype, "channels_last")
    expected = reference.conv2d_grad_input(*float64(grad, weight), x.shape, **case.arguments)
    actual = fc.conv2d_grad_input(dg, kernel, x.shape, **case.arguments)
    assert_exact(host(actual), rounded(expected, dtype))


# ---- addresses ----------------------------------------------------------------------------------


def off_by(elements: int, shape: tuple[int, ...], dtype: str) -> Poisoned:
    """Channels last, and so many elements behind a multiple of 16 bytes; pixels are 16 channels
    further apart than they need."""
    placed = Poisoned((shape[0], shape[1] + 16, *shape[2:]), dtype, "channels_last")
    placed.array = placed.array[:, elements : elements + shape[1]]
    return placed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("elements", [1, 4, 5, 8])
def test_results_at_addresses_that_tma_cannot_store_to(
    elements: int, taps: int, dtype: str, rng: np.random.Generator
) -> None:
    pad = taps // 2
    x, weight = integers((2, 64, 8, 8), rng), integers((64, 64, taps, taps), rng)
    grad = integers((2, 64, 8, 8), rng)
    dx, dw, dg = (on_gpu(a, dtype, "channels_last") for a in (x, weight, grad))
    out = off_by(elements, grad.shape, dtype)
    expected = reference.conv2d(*float64(x, weight), padding=pad)
    fc.conv2d(dx, dw, padding=pad, out=out.array)
    assert_exact(host(out.array), rounded(expected, dtype))
    assert np.count_nonzero(~np.isnan(host(out.whole))) == grad.size
    plan = fc.explain(fc.conv2d, dx, dw, padding=pad, out=out.array)
    refused = "stores 16 bytes at a time: result and residual aligned"
    assert (plan.rejected.get("tma_128x128") == refused) == (elements % 8 != 0)

    residual = off_by(elements, grad.shape, dtype)
    residual.array[...] = dg
    actual = fc.conv2d(dx, dw, padding=pad, residual=residual.array, activation="relu")
    assert_exact(host(actual), rounded(np.maximum(expected + grad, 0), dtype))
    plan = fc.explain(fc.conv2d, dx, dw, padding=pad, residual=residual.array)
    assert (plan.rejected.get("tma_128x128") == refused) == (elements % 8 != 0)

    out = off_by(elements, x.shape, dtype)
    expected = reference.conv2d_grad_input(*float64(grad, weight), x.shape, padding=pad)
    fc.conv2d_grad_input(dg, dw, x.shape, padding=pad, out=out.array)
    assert_exact(host(out.array), rounded(expected, dtype))
    assert np.count_nonzero(~np.isnan(host(out.whole))) == x.size


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("kernel", ["", *(k for d, k in BY_TMA if d == "conv2d_grad_weight")])
def test_gradients_of_weights_at_addresses_that_tma_cannot_store_to(
    kernel: str, accumulate: bool, dtype: str, rng: np.random.Generator
) -> None:
    """They lie in order, so that one split alone would be stored by TMA."""
    x, grad = integers((1, 64, 8, 8), rng), integers((1, 64, 8, 8), rng)
    before = integers((64, 64, 3, 3), rng)
    dx, dg = (on_gpu(a, dtype, "channels_last") for a in (x, grad))
    expected = reference.conv2d_grad_weight(*float64(grad, x), before.shape, padding=1)
    for elements in (4, 8):
        whole = Poisoned((before.size + 16,), dtype)
        out = whole.array[elements : elements + before.size].reshape(64, 3, 3, 64)
        out = out.transpose(0, 3, 1, 2)
        out[...] = on_gpu(before, dtype)
        with fc.cuda.kernel(kernel):
            fc.conv2d_grad_weight(dg, dx, before.shape, padding=1, out=out, accumulate=accumulate)
        total = expected + before if accumulate else expected
        assert_exact(host(out), rounded(total, dtype))
        around = host(whole.array)
        assert np.isnan(around[:elements]).all()
        assert np.isnan(around[elements + before.size :]).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("accumulate", [False, True])
def test_linear_into_addresses_that_tma_cannot_store_to(
    accumulate: bool, dtype: str, rng: np.random.Generator
) -> None:
    x, weight, grad = (integers(shape, rng) for shape in ((40, 128), (64, 128), (40, 64)))
    dx, dw, dg = (on_gpu(a, dtype) for a in (x, weight, grad))
    _, grad_input, grad_weight = range(3)
    linear = fc._core.cuda.linear
    for elements in (4, 8):

        def place(rows: int, cols: int, elements: int = elements) -> fc.cuda.Array:
            return Poisoned((rows, cols + 16), dtype).array[:, elements : elements + cols]

        y, gx = place(40, 64), place(40, 128)
        fc.linear(dx, dw, out=y)
        assert_exact(host(y), rounded(float64(x)[0] @ weight.T, dtype))
        linear(grad_input, gx, dw, dg, None, False, False)
        assert_exact(host(gx), rounded(float64(grad)[0] @ weight, dtype))
        flat = fc.cuda.full(64 * 128 + 8, 1, dtype)
        gw = flat[elements : elements + 64 * 128].reshape(64, 128)
        linear(grad_weight, dx, gw, dg, None, False, accumulate)
        assert_exact(host(gw), rounded(float64(grad)[0].T @ x + accumulate, dtype))
