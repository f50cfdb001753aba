"""What holds for the reference as a whole: its names, its imports, its examples."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import fastconv
import numpy as np
import pytest
from fastconv import reference

CONTRACT = re.findall(
    r"\w+",
    """
    conv2d conv2d_grad_bias conv2d_grad_input conv2d_grad_weight conv2d_backward pack_weight
    conv_transpose2d conv_transpose2d_backward max_pool2d max_pool2d_backward max_unpool2d
    max_unpool2d_backward avg_pool2d avg_pool2d_backward adaptive_avg_pool2d
    adaptive_avg_pool2d_backward adaptive_max_pool2d adaptive_max_pool2d_backward
    global_avg_pool2d global_avg_pool2d_backward linear linear_backward relu relu_backward
    leaky_relu leaky_relu_backward sigmoid sigmoid_backward tanh tanh_backward softmax
    softmax_backward log_softmax log_softmax_backward dropout dropout_backward batch_norm
    batch_norm_backward local_response_norm local_response_norm_backward cross_entropy
    cross_entropy_backward conv2d_output_shape pool2d_output_shape conv1d max_pool1d
    avg_pool1d
    """,
)
TWINS = [name for name in CONTRACT if hasattr(fastconv, name)]

MODULES = [
    importlib.import_module(f"fastconv.reference.{module.name}")
    for module in pkgutil.iter_modules(reference.__path__)
]


def test_every_function_of_the_contract_is_there():
    assert sorted(reference.__all__) == sorted(CONTRACT)


@pytest.mark.parametrize("name", TWINS)
def test_twins_take_the_same_arguments(name):
    """The same names in the same order and kind, less `algorithm`, `out` and what goes with it."""
    only_compiled = {"algorithm", "out", "accumulate"}
    wanted = [
        (p.name, p.kind)
        for p in inspect.signature(getattr(fastconv, name)).parameters.values()
        if p.name not in only_compiled
    ]
    got = [
        (p.name, p.kind) for p in inspect.signature(getattr(reference, name)).parameters.values()
    ]
    assert got == wanted


@pytest.mark.parametrize("name", TWINS)
def test_twins_have_the_same_defaults(name):
    theirs = inspect.signature(getattr(fastconv, name)).parameters
    ours = inspect.signature(getattr(reference, name)).parameters
    for shared in theirs.keys() & ours.keys():
        assert theirs[shared].default == ours[shared].default, shared


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rsplit(".", 1)[1])
def test_imports_numpy_and_nothing_of_ours(module):
    for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
        if isinstance(node, ast.Import):
            assert {name.name for name in node.names} <= {"numpy"}
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert node.module.split(".")[0] in {
                "__future__", "collections", "dataclasses", "functools", "typing", "numpy"
            }  # fmt: skip
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1, "nothing from above the package"


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__.rsplit(".", 1)[1])
def test_examples_print_what_they_say(module):
    failed, tried = doctest.testmod(module)
    assert failed == 0
    public = [n for n in reference.__all__ if getattr(reference, n).__module__ == module.__name__]
    assert tried >= len(public)


def test_gradcheck_examples_print_what_they_say():
    failed, tried = doctest.testmod(importlib.import_module("fastconv.gradient_check"))
    assert tried
    assert not failed


def test_nothing_warns():
    """NaN and infinities are values: warnings are errors in these tests, and none comes."""
    x = np.array([np.nan, np.inf, -np.inf, 1e308] * 4).reshape(1, 1, 4, 4)
    y = reference.conv2d(x, x[:, :, :2, :2], np.array([np.inf]))
    reference.conv2d_backward(y, x, x[:, :, :2, :2])
    reference.avg_pool2d(x, 2)
    reference.max_pool2d(x, 2)
    reference.linear(x[0, 0], x[0, 0])
    reference.softmax(x)
    reference.sigmoid(x)
    reference.local_response_norm(x, 3)
    reference.batch_norm(x, training=True)
    reference.cross_entropy(x[0, 0], np.zeros(4, int))
