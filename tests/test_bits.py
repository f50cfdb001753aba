"""Result bits: the stored ones, whatever the number of threads, the run or the batch.

A hash that differs is a mistake, or a change that is meant: see bits.py.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from typing import Any

import bits
import fastconv as fc
import numpy as np
import pytest
import strategies as some

STORED = json.loads(bits.STORE.read_text())


def test_every_call_is_stored() -> None:
    assert set(STORED) == set(bits.CALLS)


def test_every_algorithm_is_stored() -> None:
    for name in ("auto", *fc.algorithms(fc.conv2d)):
        assert any(call.endswith(" " + name) for call in bits.CALLS)


@pytest.mark.skipif(platform.machine() != "x86_64", reason="hashes are of x86-64 so far")
@pytest.mark.parametrize("name", bits.CALLS)
def test_bits_are_the_stored_ones_for_any_number_of_threads(name: str, isa: str) -> None:
    for threads in (1, 2, 5):
        with some.machine(isa, threads):
            assert bits.digest(name) == STORED[name][isa], (
                f"{threads} threads: if these bits are meant to change, run tests/bits.py and say "
                f"so under Numerics in CHANGELOG.md"
            )


X = bits.numbers(np.float32)((5, 19, 14, 17))
ROWS, MATRIX = bits.numbers(np.float32)((5, 700)), bits.numbers(np.float32)((33, 700), 1)
KERNEL = bits.numbers(np.float32)((19, 23, 3, 3), 1)

SEPARATE: dict[str, Callable[[Any, Any], Any]] = {
    "max_pool2d": lambda x, _: fc.max_pool2d(x, 3, stride=2, return_indices=True),
    "avg_pool2d": lambda x, _: fc.avg_pool2d(x, 3, padding=1),
    "adaptive_avg_pool2d": lambda x, _: fc.adaptive_avg_pool2d(x, 4),
    "global_avg_pool2d": lambda x, _: fc.global_avg_pool2d(x),
    "local_response_norm": lambda x, _: fc.local_response_norm(x, 5),
    "batch_norm in eval mode": lambda x, _: fc.batch_norm(
        x, running_mean=X[0, :, 0, 0], running_var=X[0, :, 1, 1] ** 2, training=False
    )[:1],
    "conv_transpose2d": lambda x, _: fc.conv_transpose2d(x, KERNEL, stride=2, padding=1),
    "linear": lambda _, rows: fc.linear(rows, MATRIX),
    "linear's grad_input": lambda _, rows: fc.linear_backward(
        rows[:, :33], rows, MATRIX, need=("input",)
    )[:1],
    "softmax": lambda _, rows: fc.softmax(rows),
    "log_softmax": lambda _, rows: fc.log_softmax(rows),
    "tanh": lambda _, rows: fc.tanh(rows),
    "cross_entropy of each row": lambda _, rows: fc.cross_entropy(
        rows, np.full(len(rows), 3), reduction="none"
    ),
}


@pytest.mark.parametrize("name", SEPARATE)
def test_an_image_has_its_bits_alone_and_among_others(name: str, isa: str) -> None:
    """Convolutions: test_properties_conv.py."""
    for order in (np.ascontiguousarray, fc.channels_last):
        images = order(X)
        whole = SEPARATE[name](images, ROWS)
        for n in range(len(X)):
            alone = SEPARATE[name](images[n : n + 1], ROWS[n : n + 1])
            parts = zip(alone, whole) if isinstance(whole, tuple) else [(alone, whole)]
            assert all(np.array_equal(a, w[n : n + 1]) for a, w in parts)


def test_training_has_the_same_bits_for_any_number_of_threads(isa: str) -> None:
    """Three steps of LeNet-5: every gradient, the momentum's state, batch sums."""
    images, target = bits.numbers(np.float32)((24, 1, 28, 28)), np.arange(24) % 10
    weights = fc.models.lenet5().state_dict()

    def trained() -> bytes:
        model = fc.models.lenet5()
        model.load_state_dict(weights)
        optimizer = fc.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
        for _ in range(3):
            optimizer.zero_grad()
            model.backward(fc.cross_entropy_backward(model(images), target))
            optimizer.step()
        return b"".join(array.tobytes() for array in model.state_dict().values())

    found = []
    for threads in (1, 2, 5):
        with some.machine(isa, threads):
            found.append(trained())
    assert found[1:] == found[:1] * 2
