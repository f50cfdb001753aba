"""Wrong arguments: a call works, or says in its own name what is wrong, and has written nothing.

A valid call of each function has one or two of its arguments replaced by something strange. What
may come of it: a result; ValueError or TypeError that begins with the function's name; MemoryError.
Never a crash, a message of _core or NumPy, or an `out` that is half written.
"""

from __future__ import annotations

import warnings

import fastconv as fc
import numpy as np
import pytest
import strategies as some
from hypothesis import given
from hypothesis import strategies as st


def ones(*shape):
    return np.ones(shape, np.float32)


def places(*shape):
    return np.zeros(shape, np.int64)


CONV = {"stride": 1, "padding": 1, "dilation": 1, "groups": 1}
POOL = {"kernel_size": 3, "stride": 1, "padding": 1, "dilation": 1}
NEED = ("input", "weight", "bias")

# Function -> the arguments of a valid call, `out` included where there is one.
CALLS = {
    "conv2d": lambda: {
        "x": ones(2, 4, 6, 7), "weight": ones(6, 4, 3, 3), "bias": ones(6), "activation": None,
        "residual": ones(2, 6, 6, 7), "algorithm": "auto", "out": ones(2, 6, 6, 7), **CONV,
    },
    "conv2d_grad_input": lambda: {
        "grad_output": ones(2, 6, 6, 7), "weight": ones(6, 4, 3, 3), "input_shape": (2, 4, 6, 7),
        "algorithm": "auto", "out": ones(2, 4, 6, 7), **CONV,
    },
    "conv2d_grad_weight": lambda: {
        "grad_output": ones(2, 6, 6, 7), "x": ones(2, 4, 6, 7), "weight_shape": (6, 4, 3, 3),
        "algorithm": "auto", "out": ones(6, 4, 3, 3), "accumulate": False, **CONV,
    },
    "conv2d_grad_bias": lambda: {
        "grad_output": ones(2, 6, 6, 7), "out": ones(6), "accumulate": False,
    },
    "conv2d_backward": lambda: {
        "grad_output": ones(2, 6, 6, 7), "x": ones(2, 4, 6, 7), "weight": ones(6, 4, 3, 3),
        "activation": "relu", "output": ones(2, 6, 6, 7), "need": NEED, **CONV,
    },
    "pack_weight": lambda: {"weight": ones(6, 4, 3, 3), "groups": 1},
    "conv1d": lambda: {
        "x": ones(2, 4, 7), "weight": ones(6, 4, 3), "bias": ones(6), "activation": None,
        "residual": ones(2, 6, 7), "algorithm": "auto", "out": ones(2, 6, 7), **CONV,
    },
    "conv_transpose2d": lambda: {
        "x": ones(2, 4, 6, 7), "weight": ones(4, 6, 3, 3), "bias": ones(6), "output_padding": 0,
        "algorithm": "auto", "out": ones(2, 6, 6, 7), **CONV,
    },
    "conv_transpose2d_backward": lambda: {
        "grad_output": ones(2, 6, 6, 7), "x": ones(2, 4, 6, 7), "weight": ones(4, 6, 3, 3),
        "output_padding": 0, "need": NEED, **CONV,
    },
    "conv2d_output_shape": lambda: {
        "input_shape": (2, 4, 6, 7), "weight_shape": (6, 4, 3, 3), "stride": 1, "padding": 1,
        "dilation": 1,
    },
    "linear": lambda: {
        "x": ones(3, 5), "weight": ones(4, 5), "bias": ones(4), "activation": None,
        "out": ones(3, 4),
    },
    "linear_backward": lambda: {
        "grad_output": ones(3, 4), "x": ones(3, 5), "weight": ones(4, 5), "activation": "relu",
        "output": ones(3, 4), "need": NEED,
    },
    "relu": lambda: {"x": ones(3, 5), "out": ones(3, 5)},
    "relu_backward": lambda: {"grad_output": ones(3, 5), "output": ones(3, 5), "out": ones(3, 5)},
    "leaky_relu": lambda: {"x": ones(3, 5), "negative_slope": 0.1, "out": ones(3, 5)},
    "leaky_relu_backward": lambda: {
        "grad_output": ones(3, 5), "output": ones(3, 5), "negative_slope": 0.1, "out": ones(3, 5),
    },
    "sigmoid": lambda: {"x": ones(3, 5), "out": ones(3, 5)},
    "sigmoid_backward": lambda: {
        "grad_output": ones(3, 5), "output": ones(3, 5), "out": ones(3, 5),
    },
    "tanh": lambda: {"x": ones(3, 5), "out": ones(3, 5)},
    "tanh_backward": lambda: {"grad_output": ones(3, 5), "output": ones(3, 5), "out": ones(3, 5)},
    "dropout": lambda: {"x": ones(3, 5), "p": 0.5, "seed": 1, "training": True, "out": ones(3, 5)},
    "dropout_backward": lambda: {"grad_output": ones(3, 5), "p": 0.5, "seed": 1, "out": ones(3, 5)},
    "softmax": lambda: {"x": ones(3, 5), "axis": 1, "out": ones(3, 5)},
    "softmax_backward": lambda: {
        "grad_output": ones(3, 5), "output": ones(3, 5), "axis": 1, "out": ones(3, 5),
    },
    "log_softmax": lambda: {"x": ones(3, 5), "axis": 1, "out": ones(3, 5)},
    "log_softmax_backward": lambda: {
        "grad_output": ones(3, 5), "output": ones(3, 5), "axis": 1, "out": ones(3, 5),
    },
    "cross_entropy": lambda: {
        "logits": ones(3, 5), "target": np.array([0, 4, 2]), "label_smoothing": 0.1,
        "reduction": "mean",
    },
    "cross_entropy_backward": lambda: {
        "logits": ones(3, 5), "target": np.array([0, 4, 2]), "label_smoothing": 0.1,
        "reduction": "mean", "grad_output": 1.0, "out": ones(3, 5),
    },
    "max_pool2d": lambda: {
        "x": ones(2, 4, 6, 7), "return_indices": True, "ceil_mode": False, **POOL,
    },
    "max_pool2d_backward": lambda: {
        "grad_output": ones(2, 4, 6, 7), "indices": places(2, 4, 6, 7), "input_shape": (2, 4, 6, 7),
        "ceil_mode": False, "out": ones(2, 4, 6, 7), **POOL,
    },
    "avg_pool2d": lambda: {
        "x": ones(2, 4, 6, 7), "kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": False,
        "count_include_pad": True, "divisor_override": None,
    },
    "avg_pool2d_backward": lambda: {
        "grad_output": ones(2, 4, 6, 7), "input_shape": (2, 4, 6, 7), "kernel_size": 3, "stride": 1,
        "padding": 1, "ceil_mode": False, "count_include_pad": True, "divisor_override": None,
        "out": ones(2, 4, 6, 7),
    },
    "max_pool1d": lambda: {"x": ones(2, 4, 7), "return_indices": True, "ceil_mode": False, **POOL},
    "avg_pool1d": lambda: {
        "x": ones(2, 4, 7), "kernel_size": 3, "stride": 1, "padding": 1, "ceil_mode": False,
        "count_include_pad": True, "divisor_override": None,
    },
    "pool2d_output_shape": lambda: {"input_shape": (2, 4, 6, 7), "ceil_mode": False, **POOL},
    "adaptive_avg_pool2d": lambda: {"x": ones(2, 4, 6, 7), "output_size": (2, 3)},
    "adaptive_avg_pool2d_backward": lambda: {
        "grad_output": ones(2, 4, 2, 3), "input_shape": (2, 4, 6, 7), "out": ones(2, 4, 6, 7),
    },
    "adaptive_max_pool2d": lambda: {
        "x": ones(2, 4, 6, 7), "output_size": (2, 3), "return_indices": True,
    },
    "adaptive_max_pool2d_backward": lambda: {
        "grad_output": ones(2, 4, 2, 3), "indices": places(2, 4, 2, 3), "input_shape": (2, 4, 6, 7),
        "out": ones(2, 4, 6, 7),
    },
    "global_avg_pool2d": lambda: {"x": ones(2, 4, 6, 7)},
    "global_avg_pool2d_backward": lambda: {
        "grad_output": ones(2, 4, 1, 1), "input_shape": (2, 4, 6, 7), "out": ones(2, 4, 6, 7),
    },
    "max_unpool2d": lambda: {
        "x": ones(2, 4, 2, 3), "indices": places(2, 4, 2, 3), "output_size": (6, 7),
    },
    "max_unpool2d_backward": lambda: {
        "grad_output": ones(2, 4, 6, 7), "indices": places(2, 4, 2, 3),
    },
    "batch_norm": lambda: {
        "x": ones(2, 6, 3, 4), "weight": ones(6), "bias": ones(6), "running_mean": ones(6),
        "running_var": ones(6), "training": True, "momentum": 0.1, "eps": 1e-5,
        "out": ones(2, 6, 3, 4),
    },
    "batch_norm_backward": lambda: {
        "grad_output": ones(2, 6, 3, 4), "x": ones(2, 6, 3, 4), "mean": ones(6), "rstd": ones(6),
        "weight": ones(6), "training": True, "out": ones(2, 6, 3, 4),
    },
    "local_response_norm": lambda: {
        "x": ones(2, 4, 6, 7), "size": 5, "alpha": 1e-4, "beta": 0.75, "k": 1.0,
        "out": ones(2, 4, 6, 7),
    },
    "local_response_norm_backward": lambda: {
        "grad_output": ones(2, 4, 6, 7), "x": ones(2, 4, 6, 7), "size": 5, "alpha": 1e-4,
        "beta": 0.75, "k": 1.0, "out": ones(2, 4, 6, 7),
    },
    "channels_last": lambda: {"x": ones(2, 4, 6, 7)},
    "is_channels_last": lambda: {"x": ones(2, 4, 6, 7)},
}  # fmt: skip


def frozen(array):
    array.flags.writeable = False
    return array


def split_elements(shape):
    """Strides of five bytes between elements of four: a field of a structured array."""
    return np.ones(shape, [("value", np.float32), ("flag", np.uint8)])["value"]


STRANGE = [
    None, True, -1, 0, 2, 3, 4, 5, 2**31, 2**62, 2**63, 2**64, -(2**70), 0.5, 1.5, -0.5,
    float("nan"), float("inf"), 1j, "", "auto", "same", "valid", "relu", "input", "naive",
    "depthwise", "winograd2", b"same", (), (1,), (1, 2), (0, 0), (1, 2, 3), (2**62, 1), (1, -1),
    ("a", "b"), (None, None), ((1, 2), (3, 4)), ((1, 2), (3,)), ((1, 2), -3), [1, 2],
    [[1, 2], [3, 4]], {}, {1, 2}, {"input"}, ("input", 3), object(), len, np.float32, (2, 4, 6, 7),
    (2, 4, 6), (2, 4, 2**62, 7), (-1, 4, 6, 7), (0, 4, 6, 7), (2, 0, 6, 7), (6, 4, 0, 0),
    (6, 4, 3, 3.0), (6, 0, 3, 3), np.int64(2), np.float32(2), np.array(2), np.array([1, 2]),
    np.ones((2, 4, 6, 7)), ones(), ones(0), ones(1), ones(6), ones(3, 5), ones(4, 6),
    ones(2, 4, 6), ones(2, 4, 6, 7), ones(1, 4, 6, 7), ones(2, 6, 6, 7), ones(0, 4, 6, 7),
    ones(2, 0, 6, 7), ones(2, 4, 0, 7), ones(2, 4, 6, 0), ones(6, 4, 3, 3), ones(0, 4, 3, 3),
    ones(6, 0, 3, 3), ones(6, 4, 0, 3), ones(6, 4, 5, 5), ones(2, 2, 2, 2, 2), ones(*[1] * 20),
    ones(2, 4, 6, 7).astype(np.float16), ones(2, 4, 6, 7).astype(np.int64),
    ones(2, 4, 6, 7).astype(">f4"), ones(2, 4, 6, 7).astype(object),
    ones(3, 5).astype(np.complex64), np.ones((3, 5), bool), np.array(["a", "b"]),
    np.ma.masked_array(ones(3, 5), ones(3, 5) > 0), frozen(ones(3, 5)), frozen(ones(2, 4, 6, 7)),
    frozen(ones(2, 6, 6, 7)), frozen(ones(6)), split_elements((2, 4, 6, 7)),
    split_elements((2, 6, 6, 7)), split_elements((6,)), split_elements((3, 5)),
    split_elements((6, 4, 3, 3)), split_elements((1, 1, 1, 1)), split_elements((3, 4)),
    split_elements((0, 4, 6, 7)), np.broadcast_to(np.float32(1), (2, 4, 6, 7)),
    np.broadcast_to(np.float32(1), (3, 5)), np.broadcast_to(np.float32(1), (2, 6, 6, 7)),
    np.broadcast_to(np.float32(1), (6,)),
    np.frombuffer(bytes(1 + 4 * 15), np.float32, offset=1).reshape(3, 5),
    np.frombuffer(bytes(1 + 4 * 336), np.float32, offset=1).reshape(2, 4, 6, 7),
    places(2, 4, 6, 7), places(2, 4, 2, 3) - 1, places(2, 4, 2, 3) + 41, places(2, 4, 2, 3) + 42,
    places(2, 4, 6, 7) - 2, places(2, 4, 6, 7) + 2**62, places(3) - 1, places(3) + 5, places(0),
    places(3).astype(np.uint8), places(3).astype(np.uint64) + np.uint64(2**63),
    np.broadcast_to(np.int64(1), (2, 4, 6, 7)), split_elements((2, 4, 2, 3)).astype(np.int64),
    np.lib.stride_tricks.as_strided(ones(400), (2, 6, 6, 7), (168, 28, 4, 4)),
]  # fmt: skip


def call(name, arguments):
    """Calls fc.<name> and checks what an error looks like: the error, or None."""
    error = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # 0 * inf and its like in NumPy
            getattr(fc, name)(**arguments)
    except (ValueError, TypeError, MemoryError) as raised:
        error = raised
    if isinstance(error, ValueError | TypeError):
        assert str(error).startswith(f"{name}: "), f"{type(error).__name__}: {error}"
        assert "_core" not in str(error), error
    return error


def test_every_function_is_here():
    functions = {n for n in fc.ops.__all__ if callable(getattr(fc, n))}
    assert functions - {"PackedWeight", "algorithms"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_are_valid(name):
    assert call(name, CALLS[name]()) is None


@pytest.mark.parametrize("name", CALLS)
def test_one_strange_argument(name):
    """Every argument of every function, every strange value."""
    for argument in CALLS[name]():
        for index, value in enumerate(STRANGE):
            check_unwritten(name, {argument: value}, f"{argument}=STRANGE[{index}]")


SEVERAL = sorted(name for name in CALLS if len(CALLS[name]()) > 1)


@some.examples(300)
@given(data=st.data(), name=st.sampled_from(SEVERAL))
def test_several_strange_arguments(data, name):
    arguments = st.sampled_from(sorted(CALLS[name]()))
    indices = st.integers(0, len(STRANGE) - 1)
    changes = data.draw(st.dictionaries(arguments, indices, min_size=2, max_size=3))
    check_unwritten(name, {a: STRANGE[i] for a, i in changes.items()}, changes)


@pytest.mark.parametrize("argument", ["stride", "padding", "dilation"])
@pytest.mark.parametrize("wrong", [(1.0, 1.0), (1, np.float64(1))])
def test_what_equals_an_argument_is_not_it(argument, wrong):
    """Calls are remembered by their arguments; 1.0 equals 1."""
    for right in (1, (1, 1), np.int64(1)):
        assert (
            call("conv2d", CALLS["conv2d"]() | {"out": None, "residual": None, argument: right})
            is None
        )
    with pytest.raises(TypeError, match=f"conv2d: {argument} is .*; wanted an int"):
        fc.conv2d(**CALLS["conv2d"]() | {argument: wrong})
    with pytest.raises(TypeError, match=f"max_pool2d: {argument} is .*; wanted an int"):
        fc.max_pool2d(ones(2, 4, 6, 7), 3, **{argument: wrong})


@pytest.mark.parametrize("name", ["conv2d", "relu", "conv2d_grad_input", "linear"])
def test_what_fits_into_no_memory_is_told_by_name(name):
    many = np.broadcast_to(np.float32(1), (2**24, 1, 2**12, 2**12))
    call = {
        "conv2d": lambda: fc.conv2d(many, ones(1, 1, 1, 1)),
        "conv2d_grad_input": lambda: fc.conv2d_grad_input(many, ones(1, 1, 1, 1), many.shape),
        "relu": lambda: fc.relu(many),
        "linear": lambda: fc.linear(many[:, 0, 0, :1], np.broadcast_to(np.float32(1), (2**28, 1))),
    }[name]
    with pytest.raises(MemoryError, match=rf"^{name}: a result of shape \(.* fits into no memory"):
        call()


def check_unwritten(name, changes, shown):
    arguments = CALLS[name]() | changes
    out = arguments.get("out")
    kept = out.copy() if isinstance(out, np.ndarray) else None
    if kept is not None and "out" not in changes:
        out[...] = kept[...] = 17
    try:
        error = call(name, arguments)
    except Exception as unexpected:  # with what was changed, to reproduce it
        pytest.fail(
            f"{name} with {shown}: {type(unexpected).__name__}: {unexpected}", pytrace=False
        )
    if error is not None and kept is not None:
        assert out.tobytes() == kept.tobytes(), f"{name} with {shown}: written before {error}"
