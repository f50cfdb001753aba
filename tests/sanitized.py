"""Every CUDA kernel once or twice on small problems, for compute-sanitizer (.ci/gpu, stage
sanitizer): odd sizes, tails of every tile, both memory orders. Values are compared too.

    compute-sanitizer --tool memcheck python tests/sanitized.py              all families
    compute-sanitizer --tool racecheck python tests/sanitized.py tma pool    some
    python tests/sanitized.py --list

A family is the first word of a convolution kernel's name (`fc.cuda.kernels`), or one of OTHERS. The
exit code is 1 where values are wrong, or where a kernel of a family did nothing at all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import fastconv as fc
import numpy as np
from fastconv.layers.arithmetic import add

CONVOLUTIONS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 40, 9, 11), (72, 40, 3, 3), {"padding": 1}),  # x, weight, arguments
    ((1, 3, 17, 19), (9, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((2, 16, 10, 9), (24, 8, 3, 3), {"stride": 2, "padding": 1, "groups": 2}),
    ((3, 64, 7, 7), (136, 64, 1, 1), {}),
    ((2, 64, 13, 14), (192, 64, 3, 3), {"padding": 1}),
    ((2, 72, 8, 16), (72, 72, 3, 3), {"padding": 1}),  # whole tiles of 8x8 pixels
    ((2, 128, 13, 11), (64, 128, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 128, 9, 9), (256, 128, 1, 1), {"stride": 2}),
    ((2, 128, 8, 7), (256, 64, 3, 3), {"padding": 1, "groups": 2}),
    ((2, 40, 9, 11), (40, 1, 3, 3), {"padding": 1, "groups": 40}),
    ((2, 21, 12, 10), (21, 1, 5, 5), {"stride": 2, "padding": 2, "groups": 21}),
]
TOLERANCES = {"float32": 3e-3, "bfloat16": 2e-2, "float16": 3e-3}  # float32: in tf32 too
DIRECTIONS = {
    "forward": fc.conv2d,
    "grad_input": fc.conv2d_grad_input,
    "grad_weight": fc.conv2d_grad_weight,
}
ref = fc.reference


def device(array: np.ndarray, dtype: str, channels_last: bool) -> fc.cuda.Array:
    """The array on the device in that dtype and order."""
    order = "channels_last" if channels_last and array.ndim == 4 else None
    return fc.cuda.asarray(array, dtype=dtype, order=order)


def close(name: str, result: object, expected: np.ndarray, dtype: str) -> None:
    """Fail where a result is far from the reference."""
    if not isinstance(result, np.ndarray):
        result = fc.cuda.asnumpy(result.astype("float32"))
    values = np.asarray(result, np.float64)
    error = np.linalg.norm(values - expected) / max(np.linalg.norm(expected), 1e-30)
    if not error < TOLERANCES[dtype]:
        raise SystemExit(f"{name} {dtype}: relative error {error:.3g}")


def kernel_families() -> list[str]:
    """The first words of the names of all convolution kernels."""
    names = [name for function in DIRECTIONS.values() for name in fc.cuda.kernels(function)]
    return list(dict.fromkeys(name.partition("_")[0] for name in names))


Call = tuple[tuple[Any, ...], dict[str, Any]]


def problem_calls(
    rng: np.random.Generator, x_shape: tuple[int, ...], w_shape: tuple[int, ...],
    arguments: dict[str, Any],
) -> Iterator[tuple[str, dict[str, Call], dict[str, np.ndarray]]]:  # fmt: skip
    """(dtype, direction -> operands and arguments, direction -> the reference's result)."""
    x, w = rng.standard_normal(x_shape), rng.standard_normal(w_shape)
    bias = rng.standard_normal(w_shape[0])
    y = ref.conv2d(x, w, **arguments)
    g = rng.standard_normal(y.shape)
    wanted = {
        "forward": np.maximum(y + bias[:, None, None] + g, 0),
        "grad_input": ref.conv2d_grad_input(g, w, x_shape, **arguments),
        "grad_weight": ref.conv2d_grad_weight(g, x, w_shape, **arguments),
    }
    for dtype in TOLERANCES:
        # float16 takes bfloat16's ways: one order is enough
        for last in (True,) if dtype == "float16" else (True, False):
            dx, dw, dg, db = (device(a, dtype, last) for a in (x, w, g, bias))
            fused = {"residual": dg, "activation": "relu", **arguments}
            calls: dict[str, Call] = {
                "forward": ((dx, dw, db), fused),
                "grad_input": ((dg, dw, x_shape), arguments),
                "grad_weight": ((dg, dx, w_shape), arguments),
            }
            yield dtype, calls, wanted


def convolutions(family: str, rng: np.random.Generator) -> int:
    """All directions of all kernels of one family on every problem they take; how many ran."""
    refusals = {
        (direction, name): "no problem"
        for direction, function in DIRECTIONS.items()
        for name in fc.cuda.kernels(function)
        if name.partition("_")[0] == family
    }
    everything, done = list(refusals), set()
    ran = 0
    for x_shape, w_shape, arguments in CONVOLUTIONS:
        for dtype, calls, wanted in problem_calls(rng, x_shape, w_shape, arguments):
            for direction, name in everything:
                operands, keywords = calls[direction]
                precision = "high" if name.endswith("_3xtf32") else "tf32"
                try:
                    with fc.cuda.kernel(name), fc.float32_precision(precision):
                        result = DIRECTIONS[direction](*operands, **keywords)
                except ValueError as error:  # not for this dtype, order or problem
                    refusals[direction, name] = str(error)
                    continue
                close(f"{direction} {name} {x_shape}", result, wanted[direction], dtype)
                done.add((direction, name))
                ran += 1
    idle = [key for key in everything if key not in done]
    if idle and fc.cuda.device_info()["compute_capability"] >= (9, 0):
        raise SystemExit(
            "\n".join(f"{' '.join(key)} took no problem: {refusals[key]}" for key in idle)
        )
    return ran


def pool(x: np.ndarray, a: Any, dtype: str) -> int:
    """Windows that overlap, adaptive and global ones, both directions, unpooling."""
    window: dict[str, Any] = {"stride": 2, "padding": 1}
    y, indices = fc.max_pool2d(a, 3, return_indices=True, **window)
    wanted, places = ref.max_pool2d(x, 3, return_indices=True, **window)
    close("max_pool2d", y, wanted, dtype)
    back = fc.max_pool2d_backward(y, indices, x.shape, 3, **window)
    close(
        "max_pool2d_backward", back,
        ref.max_pool2d_backward(wanted, places, x.shape, 3, **window), dtype,
    )  # fmt: skip
    small, at = fc.max_pool2d(a, 2, return_indices=True)
    spread = fc.max_unpool2d(small, at, output_size=x.shape[2:])
    close("max_unpool2d", fc.max_unpool2d_backward(spread, at), ref.max_pool2d(x, 2), dtype)
    mean = fc.avg_pool2d(a, 3, **window)
    expected = ref.avg_pool2d(x, 3, **window)
    close("avg_pool2d", mean, expected, dtype)
    back = fc.avg_pool2d_backward(mean, x.shape, 3, **window)
    close(
        "avg_pool2d_backward", back, ref.avg_pool2d_backward(expected, x.shape, 3, **window), dtype
    )
    close("adaptive", fc.adaptive_avg_pool2d(a, (4, 3)), ref.adaptive_avg_pool2d(x, (4, 3)), dtype)
    total = fc.global_avg_pool2d(a)
    wanted = ref.global_avg_pool2d(x)
    close("global_avg_pool2d", total, wanted, dtype)
    close(
        "global_avg_pool2d_backward", fc.global_avg_pool2d_backward(total, x.shape),
        ref.global_avg_pool2d_backward(wanted, x.shape), dtype,
    )  # fmt: skip
    return 8


def normalization(x: np.ndarray, a: Any, dtype: str) -> int:
    """Batch norm in training and inference, local response norm, both directions."""
    z, mean, rstd = fc.batch_norm(a, training=True)
    wanted, m, r = ref.batch_norm(x, training=True)
    close("batch_norm", z, wanted, dtype)
    back = fc.batch_norm_backward(a, a, mean, rstd, training=True)[0]
    close(
        "batch_norm_backward", add(back, a),
        ref.batch_norm_backward(x, x, m, r, training=True)[0] + x, dtype,
    )  # fmt: skip
    running = {"running_mean": mean, "running_var": fc.cuda.full(x.shape[1], 2.0)}
    wanted = (x - m[:, None, None]) / np.sqrt(2 + 1e-5)
    close("batch_norm inference", fc.batch_norm(a, training=False, **running)[0], wanted, dtype)
    close("local_response_norm", fc.local_response_norm(a, 5), ref.local_response_norm(x, 5), dtype)
    close(
        "local_response_norm_backward", fc.local_response_norm_backward(a, a, 5),
        ref.local_response_norm_backward(x, x, 5), dtype,
    )  # fmt: skip
    return 5


def elementwise(x: np.ndarray, a: Any, dtype: str) -> int:
    """Activations, arithmetic, dropout, copies between orders and dtypes, SGD's step."""
    close("relu", fc.relu(a), np.maximum(x, 0), dtype)
    close("relu_backward", fc.relu_backward(a, a), np.where(x > 0, x, 0), dtype)
    close("sigmoid", fc.sigmoid(a), ref.sigmoid(x), dtype)
    close("add", add(a, a), 2 * x, dtype)
    close("dropout", fc.dropout(a, 0.5, seed=1), ref.dropout(x, 0.5, seed=1), dtype)
    close("channels_last", fc.channels_last(a), x, dtype)
    close("cast and crop", a.astype("float32")[:, :, 1:, ::2], x[:, :, 1:, ::2], dtype)
    parameter = fc.Parameter(fc.channels_last(a).copy(), "weight")
    parameter.grad[...] = a
    fc.optim.SGD([parameter], lr=0.25, momentum=0.9).step()
    close("sgd", parameter.data, 0.75 * x, dtype)
    return 8


def loss(x: np.ndarray, a: Any, dtype: str) -> int:
    """Softmax over channels, cross-entropy over more and fewer classes than threads."""
    y = ref.softmax(x)
    close("softmax", fc.softmax(a), y, dtype)
    close("log_softmax", fc.log_softmax(a), ref.log_softmax(x), dtype)
    close(
        "softmax_backward", fc.softmax_backward(a, fc.softmax(a)), ref.softmax_backward(x, y), dtype
    )
    for classes in (37, 1000):
        logits = np.resize(x, (5, classes))
        target = np.arange(5)
        d, t = device(logits, dtype, False), fc.cuda.asarray(target)
        close("cross_entropy", fc.cross_entropy(d, t), ref.cross_entropy(logits, target), dtype)
        close(
            "cross_entropy_backward", fc.cross_entropy_backward(d, t),
            ref.cross_entropy_backward(logits, target), dtype,
        )  # fmt: skip
    return 7


def linear(x: np.ndarray, a: Any, dtype: str) -> int:
    """Forward and the three gradients."""
    left, weight = np.resize(x, (7, 72)), np.resize(x[::-1], (40, 72))
    w = device(weight, dtype, False)
    b = device(left, dtype, False)
    y = fc.linear(b, w)
    wanted = ref.linear(left, weight)
    close("linear", y, wanted, dtype)
    gradients = ref.linear_backward(wanted, left, weight)
    for name, got, expected in zip("xwb", fc.linear_backward(y, b, w), gradients):
        close(f"linear_backward {name}", got, expected, dtype)
    close("grad_bias", fc.ops.conv2d_grad_bias(a), x.sum((0, 2, 3)), dtype)
    return 5


OTHERS: dict[str, Callable[[np.ndarray, Any, str], int]] = {
    "pool": pool, "normalization": normalization, "elementwise": elementwise, "loss": loss,
    "linear": linear,
}  # fmt: skip


def others(family: str, rng: np.random.Generator) -> int:
    """One of OTHERS in every dtype and both orders; how many results were compared."""
    x = rng.standard_normal((2, 24, 9, 7))
    ran = 0
    for dtype in TOLERANCES:
        rounded = fc.cuda.asnumpy(device(x, dtype, False).astype("float32")).astype(np.float64)
        for last in (True, False):
            ran += OTHERS[family](rounded, device(x, dtype, last), dtype)
    return ran


def main(wanted: list[str]) -> int:
    """The exit code."""
    known = [*kernel_families(), *OTHERS]
    if wanted == ["--list"]:
        print(*known)
        return 0
    unknown = [name for name in wanted if name not in known]
    if unknown:
        print(f"{', '.join(unknown)}: known are {', '.join(known)}", file=sys.stderr)
        return 2
    for family in wanted or known:
        run = others if family in OTHERS else convolutions
        ran = run(family, np.random.default_rng(0))
        fc.cuda.synchronize()
        print(f"{family}: {ran} results agree", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
