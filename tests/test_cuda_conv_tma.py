"""Operands of convolutions by TMA on CUDA: a tensor map describes few of the orders that memory can
have, and what it cannot describe must go elsewhere."""

from __future__ import annotations

import fastconv as fc
import numpy as np
import pytest
from cases import CONV_CUDA, conv
from cuda_support import Array, directions, host, on_gpu, rounded
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
