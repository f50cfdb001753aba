"""The weights' gradient by Winograd: matrices, the error, the same bits."""

import fastconv as fc
import numpy as np
import pytest
from cases import conv
from fastconv import _core, reference
from support import ORDERS, assert_only_wrote, in_order, normals, params, poisoned
from winograd_cases import (
    POINTS,
    STRIDED,
    SUBKERNELS,
    error_bound,
    names,
    outputs,
    taps_of,
    toom_cook,
    winograd_cases,
)


@pytest.mark.parametrize(("algorithm", "r"), POINTS)
def test_the_gradient_uses_the_matrices_transposed(algorithm, r, isa):
    """One tile of output positions against G^T [(B^T x B) * (A dy A^T)] G in float64."""
    m = outputs(algorithm, r)
    at, g, bt = (np.array(a, dtype=np.float64) for a in toom_cook(POINTS[algorithm, r], m, r))
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, dy = rng.standard_normal((m + r - 1,) * 2), rng.standard_normal((m, m))
        x, dy = x.astype(np.float32), dy.astype(np.float32)
        expected = g.T @ ((bt @ x @ bt.T) * (at.T @ dy @ at)) @ g
        actual = fc.conv2d_grad_weight(
            dy[None, None], x[None, None], (1, 1, r, r), algorithm=algorithm
        )[0, 0]
        assert np.abs(actual - expected).max() < 2e-5 * max(1.0, np.abs(expected).max())


# Sums in several runs of blocks, parts of channels and of filters, panels that are not full, maps
# smaller than a tile.
GRADIENTS = [
    conv("n9c33h13w14-k70r3s3-pad1"),
    conv("n1c260h7w7-k150r3s3-pad1"),
    conv("n40c17h6w5-k65r3s3-pad1x2"),
    conv("n12c40h22w21-k24r3s3-pad1-g2"),
    conv("n3c5h3w3-k9r3s3-pad1"),
    conv("n2c130h1w2-k20r3s3-pad2"),
    conv("n6c36h15w17-k80r5s5-pad2"),
]


@pytest.mark.parametrize("case", params([*winograd_cases(), *GRADIENTS, *STRIDED]))
def test_the_gradient_against_the_reference(case, isa, rng):
    x = normals(case.input_shape, rng)
    window = {"stride": case.stride, "padding": case.padding}
    shape = fc.conv2d_output_shape(x.shape, case.weight_shape, **window)
    grad = normals(shape, rng)
    exact = reference.conv2d_grad_weight(
        grad.astype(np.float64), x.astype(np.float64), case.weight_shape, **case.arguments
    )
    for algorithm in names(taps_of(case)):
        for order in ("C", "channels_last"):
            out = poisoned(case.weight_shape, order=order)
            options = {"algorithm": algorithm, "out": out, **case.arguments}
            arrays = in_order(grad, order), in_order(x, order)
            fc.conv2d_grad_weight(*arrays, case.weight_shape, **options)
            limit = error_bound(algorithm, taps_of(case)) * np.linalg.norm(exact)
            assert np.linalg.norm(out - exact) <= limit
            fc.conv2d_grad_weight(*arrays, case.weight_shape, accumulate=True, **options)
            assert np.linalg.norm(out - 2 * exact) <= 2 * limit
            assert_only_wrote(out)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("r", [3, 7])
def test_the_gradient_has_the_same_bits_for_any_strides(order, r, isa, rng):
    shape = (70, 19, r, r)
    x, grad = normals((5, 19, 11, 13), rng), normals((5, 70, 11, 13), rng)
    for algorithm in names(3):
        options = {"padding": r // 2, "algorithm": algorithm}
        expected = fc.conv2d_grad_weight(grad, x, shape, **options)
        out = poisoned(shape, order=order)
        arrays = in_order(grad, order), in_order(x, order)
        fc.conv2d_grad_weight(*arrays, shape, out=out, **options)
        assert np.array_equal(out, expected)
        assert_only_wrote(out)


@pytest.mark.parametrize("case", params([*GRADIENTS, *SUBKERNELS, *STRIDED]))
def test_the_gradient_has_the_same_bits_for_any_thread_count(case, isa, rng):
    x = normals(case.input_shape, rng)
    window = {"stride": case.stride, "padding": case.padding}
    shape = fc.conv2d_output_shape(x.shape, case.weight_shape, **window)
    grad = normals(shape, rng)
    before = _core.num_threads()
    for algorithm in names(taps_of(case)):
        results = []
        for threads in (1, 2, 3, 16):
            _core.set_num_threads(threads)
            try:
                results.append(
                    fc.conv2d_grad_weight(
                        grad, x, case.weight_shape, algorithm=algorithm, **case.arguments
                    )
                )
            finally:
                _core.set_num_threads(before)
        for result in results[1:]:
            assert np.array_equal(result, results[0])


@pytest.mark.parametrize("algorithm", names(3))
def test_the_gradient_keeps_nan_to_its_channel_and_filter(algorithm, isa, rng):
    x, grad = normals((2, 19, 7, 8), rng), normals((2, 21, 7, 8), rng)
    x[1, 4, 3, 3], grad[0, 5, 3, 3] = np.nan, np.inf
    result = fc.conv2d_grad_weight(grad, x, (21, 19, 3, 3), padding=1, algorithm=algorithm)
    assert np.isnan(result[:, 4]).all()
    assert not np.isfinite(result[5]).any()
    rest = np.delete(np.delete(result, 4, axis=1), 5, axis=0)
    assert np.isfinite(rest).all()


@pytest.mark.parametrize(
    ("algorithm", "channels", "size", "r"),
    [*((name, 16, 68, r) for name, r in POINTS), ("winograd4", 16, 68, 7), ("winograd4", 8, 68, 4)],
)
def test_the_gradients_relative_error_is_within_the_contract(
    algorithm, channels, size, r, isa, rng
):
    """ReLU'd normal inputs, normal grad_output, 4624 positions an image."""
    x = np.maximum(normals((2, channels, size, size), rng), 0)
    out = size + 2 * (r // 2) - r + 1
    grad = normals((2, 24, out, out), rng)
    shape = (24, channels, r, r)
    exact = fc.conv2d_grad_weight(
        grad.astype(np.float64), x.astype(np.float64), shape, padding=r // 2
    )
    actual = fc.conv2d_grad_weight(grad, x, shape, padding=r // 2, algorithm=algorithm)
    bound = error_bound(algorithm, 5 if r == 5 else 3)
    assert np.linalg.norm(actual - exact) / np.linalg.norm(exact) < bound
