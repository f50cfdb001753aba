"""Every CUDA kernel once or twice on small problems, for compute-sanitizer (.ci/gpu, stage
sanitizer): odd sizes, tails of every tile, both memory orders. Values are compared too.

    compute-sanitizer --tool memcheck python tests/sanitized.py
"""

from __future__ import annotations

import sys

import fastconv as fc
import numpy as np

CONVOLUTIONS = [  # x, weight, arguments
    ((2, 40, 9, 11), (72, 40, 3, 3), {"padding": 1}),
    ((1, 3, 17, 19), (9, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 16, 10, 9), (24, 8, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ((3, 64, 7, 7), (136, 64, 1, 1), {}),
]


def device(array: np.ndarray, dtype: str, channels_last: bool) -> fc.cuda.Array:
    """The array on the device in that dtype and order."""
    order = "channels_last" if channels_last and array.ndim == 4 else None
    return fc.cuda.asarray(array, dtype=dtype, order=order)


def close(name: str, result: object, expected: np.ndarray, tolerance: float) -> None:
    """Fail where a result is far from the reference."""
    values = np.asarray(fc.cuda.asnumpy(result), np.float64)
    error = np.linalg.norm(values - expected) / max(np.linalg.norm(expected), 1e-30)
    assert error < tolerance, f"{name}: {error}"


def convolutions(rng: np.random.Generator) -> int:
    """All directions of all kernels; how many ran."""
    ran = 0
    ref = fc.reference
    for x_shape, w_shape, arguments in CONVOLUTIONS:
        x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
        y = ref.conv2d(x, w, **arguments)
        g = rng.standard_normal(y.shape)
        wanted = {
            "forward": y,
            "grad_input": ref.conv2d_grad_input(g, w, x_shape, **arguments),
            "grad_weight": ref.conv2d_grad_weight(g, x, w_shape, **arguments),
        }
        for dtype, tolerance in (("float32", 3e-3), ("bfloat16", 2e-2)):
            for last in (True, False):
                dx, dw, dg = (device(a, dtype, last) for a in (x, w, g))
                calls = {
                    "forward": (fc.conv2d, (dx, dw)),
                    "grad_input": (fc.conv2d_grad_input, (dg, dw, x_shape)),
                    "grad_weight": (fc.conv2d_grad_weight, (dg, dx, w_shape)),
                }
                for direction, (function, operands) in calls.items():
                    for kernel in fc.cuda.kernels(function):
                        try:
                            with fc.cuda.kernel(kernel), fc.float32_precision("tf32"):
                                result = function(*operands, **arguments)
                        except ValueError:
                            continue  # not for this dtype or order
                        close(f"{direction} {kernel}", result, wanted[direction], tolerance)
                        ran += 1
    return ran


def others(rng: np.random.Generator) -> None:
    """Pooling, normalization, activations, losses."""
    x = rng.standard_normal((2, 24, 9, 7))
    for dtype in ("float32", "bfloat16"):
        for last in (True, False):
            a = device(x, dtype, last)
            y, indices = fc.max_pool2d(a, 3, stride=2, padding=1, return_indices=True)
            fc.max_pool2d_backward(y, indices, x.shape, 3, stride=2, padding=1)
            fc.max_unpool2d(y, indices, output_size=(9, 7))
            mean = fc.avg_pool2d(a, 3, stride=2, padding=1)
            fc.avg_pool2d_backward(mean, x.shape, 3, stride=2, padding=1)
            fc.global_avg_pool2d_backward(fc.global_avg_pool2d(a), x.shape)
            z, m, r = fc.batch_norm(a, training=True)
            fc.batch_norm_backward(z, a, m, r, training=True)
            fc.local_response_norm_backward(a, fc.local_response_norm(a, 5), 5)
            fc.softmax_backward(a, fc.softmax(a))
            fc.relu_backward(a, fc.relu(a))
            fc.dropout(a, 0.5, seed=1)
            fc.channels_last(a)
            close("relu", fc.relu(a), np.maximum(x, 0), 1e-2)
    logits = device(rng.standard_normal((5, 37)), "float32", False)
    target = fc.cuda.asarray(np.arange(5))
    fc.cross_entropy(logits, target)
    fc.cross_entropy_backward(logits, target)
    weight = device(rng.standard_normal((19, 37)), "float32", False)
    fc.linear_backward(fc.linear(logits, weight), logits, weight)


def main() -> int:
    """The exit code."""
    rng = np.random.default_rng(0)
    ran = convolutions(rng)
    others(rng)
    fc.cuda.synchronize()
    print(f"{ran} convolutions and the other families ran; values agree")
    return 0


if __name__ == "__main__":
    sys.exit(main())
