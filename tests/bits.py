"""The calls whose result bits are kept in bits.json, one hash each per instruction set.

A change of bits is meant: run this file, and write a line under Numerics in CHANGELOG.md.

    python tests/bits.py        # from a checkout with fastconv installed; rewrites tests/bits.json

Instruction sets that this machine has not keep the hashes they had. The data are fractions made by
integer arithmetic, so that no library's random numbers or rounding is in them; sums of them round
at every step. Shapes are such that depth blocks, chunks of sums, edges of tiles and several tasks
occur. float64 joins float32 in one hash except where the C library's logarithm takes part.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fastconv as fc
import numpy as np

STORE = Path(__file__).with_name("bits.json")
Make = Callable[..., np.ndarray]
Call = Callable[[Make], Any]

CONV = ((2, 96, 13, 15), (66, 96, 3, 3), {"padding": 1})  # depth 864: two blocks
FIVE_BY_FIVE = ((2, 70, 13, 15), (66, 70, 5, 5), {"padding": 2})
SEVEN_BY_EIGHT = ((2, 70, 13, 15), (66, 70, 7, 8), {"padding": 3})
STRIDED = ((2, 20, 17, 16), (18, 10, 5, 4), {"stride": (2, 1), "padding": 2, "groups": 2})
POINTWISE = ((2, 800, 5, 7), (49, 800, 1, 1), {})
WIDE = ((2, 530, 21, 20), (200, 530, 1, 1), {})  # many columns: on matrix tiles where there are any
WIDE_3X3 = ((1, 48, 34, 26), (130, 48, 3, 3), {"padding": 1})
DEPTHWISE = ((2, 33, 18, 19), (33, 1, 3, 3), {"padding": 1, "groups": 33})


def numbers(dtype: Any) -> Make:
    """make(shape, salt): fractions between -1 and 1 with 24 bits, by a multiplicative hash."""

    def make(shape: tuple[int, ...], salt: int = 0) -> np.ndarray:
        count = int(np.prod(shape))
        word = (np.arange(count, dtype=np.uint64) + np.uint64(1 + 7919 * salt)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        word ^= word >> np.uint64(29)
        word *= np.uint64(0xBF58476D1CE4E5B9)
        fraction = (word >> np.uint64(40)).astype(np.float64) / 2**23 - 1
        return fraction.astype(dtype).reshape(shape)

    return make


def directions(problem: Any, algorithm: str) -> dict[str, Call]:
    """forward in both memory orders with everything fused, grad_input, grad_weight."""
    x_shape, weight_shape, arguments = problem
    options = arguments | {"algorithm": algorithm}
    window = {name: arguments[name] for name in ("stride", "padding") if name in arguments}
    y_shape = fc.conv2d_output_shape(x_shape, weight_shape, **window)

    def forward(make: Make) -> Any:
        x, weight, bias = make(x_shape), make(weight_shape, 1), make(weight_shape[:1], 2)
        residual = make(y_shape, 3)
        fused = {"residual": residual, "activation": "relu", **options}
        last = fc.conv2d(fc.channels_last(x), weight, bias, **fused)
        return fc.conv2d(x, weight, bias, **fused), last

    def grad_input(make: Make) -> Any:
        return fc.conv2d_grad_input(make(y_shape, 3), make(weight_shape, 1), x_shape, **options)

    def grad_weight(make: Make) -> Any:
        return fc.conv2d_grad_weight(make(y_shape, 3), make(x_shape), weight_shape, **options)

    return {"forward": forward, "grad_input": grad_input, "grad_weight": grad_weight}


def wide_gradient(make: Make) -> Any:
    x, y_shape = make(WIDE[0]), (WIDE[0][0], WIDE[1][0], *WIDE[0][2:])
    return fc.conv2d_grad_weight(fc.channels_last(make(y_shape, 3)), fc.channels_last(x), WIDE[1])


def convolutions() -> Iterator[tuple[str, Call]]:
    problems = {"conv2d": CONV, "conv2d strided groups": STRIDED}
    for algorithm in ("auto", "naive", "im2col", "direct"):
        for name, problem in problems.items():
            for direction, call in directions(problem, algorithm).items():
                yield f"{name} {direction} {algorithm}", call
    others = {"pointwise": POINTWISE, "depthwise": DEPTHWISE}
    others |= dict.fromkeys(("winograd", "winograd2", "winograd4", "winograd6"), CONV)
    for algorithm, problem in others.items():
        for direction, call in directions(problem, algorithm).items():
            yield f"conv2d {direction} {algorithm}", call
    for name, problem in {"wide": WIDE, "wide 3x3": WIDE_3X3}.items():
        for direction, call in directions(problem, "direct").items():
            yield f"conv2d {name} {direction} direct", call
    yield "conv2d wide grad_weight channels last", wide_gradient
    for algorithm in ("winograd2", "winograd4"):
        for size, problem in {"5x5": FIVE_BY_FIVE, "7x8": SEVEN_BY_EIGHT}.items():
            for direction, call in directions(problem, algorithm).items():
                yield f"conv2d {size} {direction} {algorithm}", call


X, ROWS = (3, 19, 14, 17), (37, 130)


def pooled(make: Make, *arguments: Any, **options: Any) -> Any:
    x = make(X)
    y, indices = fc.max_pool2d(x, *arguments, return_indices=True, **options)
    grad = make(y.shape, 1)
    mean = fc.avg_pool2d(x, *arguments, **options)
    back = fc.avg_pool2d_backward(grad, X, *arguments, **options)
    return y, indices, mean, fc.max_pool2d_backward(grad, indices, X, *arguments, **options), back


def adaptive(make: Make) -> Any:
    x, grad = make(X), make((3, 19, 4, 5), 1)
    return (
        fc.adaptive_avg_pool2d(x, (4, 5)),
        fc.adaptive_avg_pool2d_backward(grad, X),
        fc.adaptive_max_pool2d(x, (4, 5)),
        fc.global_avg_pool2d(fc.channels_last(x)),
        fc.global_avg_pool2d_backward(grad[:, :, :1, :1], X),
    )


def transposed(make: Make) -> Any:
    x, weight, arguments = make(X), make((19, 11, 3, 4), 1), {"stride": 2, "padding": 1}
    y = fc.conv_transpose2d(x, weight, make((11,), 2), **arguments)
    return y, fc.conv_transpose2d_backward(make(y.shape, 3), x, weight, **arguments)


def linear(make: Make) -> Any:
    x, weight = make((37, 1500)), make((50, 1500), 1)
    y = fc.linear(x, weight, make((50,), 2), activation="relu")
    back = fc.linear_backward(make(y.shape, 3), x, weight, activation="relu", output=y)
    return y, fc.linear(x[:1], weight), back


def batch_norm(make: Make) -> Any:
    x, grad, weight = make(X), make(X, 1), make((19,), 2)
    found = [make((19,), 3), make((19,), 4) + 2]
    for images in (x, fc.channels_last(x)):
        y, mean, rstd = fc.batch_norm(
            images, weight=weight, bias=weight, running_mean=found[0], running_var=found[1],
            training=True,
        )  # fmt: skip
        back = fc.batch_norm_backward(grad, images, mean, rstd, weight=weight, training=True)
        found += [y, mean, rstd, *back]
    return tuple(found)


def response_norm(make: Make) -> Any:
    x, grad = make(X), make(X, 1)
    return (
        fc.local_response_norm(x, 5, alpha=0.3, k=2.0),
        fc.local_response_norm(fc.channels_last(x), 5, alpha=0.3, beta=0.6),
        fc.local_response_norm_backward(grad, x, 5, alpha=0.3, k=2.0),
    )


def activations(make: Make) -> Any:
    x, grad = make(ROWS) * 4, make(ROWS, 1)
    found = []
    for name in ("relu", "leaky_relu", "sigmoid", "tanh", "softmax", "log_softmax"):
        y = getattr(fc, name)(x)
        found += [y, getattr(fc, f"{name}_backward")(grad, y)]
    return *found, fc.softmax(x, axis=0)


def cross_entropy(make: Make) -> Any:
    logits, target = make(ROWS) * 4, np.arange(37) * 3
    return (
        fc.cross_entropy(logits, target, label_smoothing=0.1),
        fc.cross_entropy_backward(logits, target, label_smoothing=0.1),
    )


CALLS: dict[str, Call] = {
    **dict(convolutions()),
    "conv2d_grad_bias": lambda make: fc.conv2d_grad_bias(make((5, 19, 24, 27))),
    "conv_transpose2d": transposed,
    "linear": linear,
    "pooling": lambda make: pooled(make, 3, stride=2, padding=1),
    "pooling ceil": lambda make: pooled(make, (2, 5), stride=3, padding=(1, 2), ceil_mode=True),
    "adaptive pooling": adaptive,
    "batch_norm": batch_norm,
    "local_response_norm": response_norm,
    "activations": activations,
    "dropout": lambda make: fc.dropout(make(X), 0.3, seed=2**40 + 7),
    "cross_entropy": cross_entropy,
}
FLOAT32_ONLY = {"cross_entropy", *(name for name in CALLS if "winograd" in name)}


def digest(name: str) -> str:
    """The hash of a call's results on the instruction set in force: values in logical order."""
    total = hashlib.sha256()
    for dtype in (np.float32,) if name in FLOAT32_ONLY else (np.float32, np.float64):
        for array in _flat(CALLS[name](numbers(dtype))):
            array = np.asarray(array)
            little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
            total.update(f"{array.dtype.str[1:]}{array.shape}".encode())
            total.update(np.where(little == 0, np.zeros_like(little), little).tobytes())  # no -0
    return total.hexdigest()[:16]


def _flat(result: Any) -> Iterator[Any]:
    if isinstance(result, tuple | list):
        for part in result:
            yield from _flat(part)
    else:
        yield result


def main() -> None:
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    fresh = {}
    for name in CALLS:
        fresh[name] = {i: h for i, h in stored.get(name, {}).items()}
        for isa in fc._core.supported_isas():
            with fc.isa(isa):
                fresh[name][isa] = digest(name)
        fresh[name] = dict(sorted(fresh[name].items()))
    STORE.write_text(json.dumps(fresh, indent=1) + "\n")
    changed = [name for name in fresh if name in stored and fresh[name] != stored[name]]
    print(f"{len(fresh)} calls; changed: {', '.join(changed) or 'none'}")


if __name__ == "__main__":
    main()
