"""Many Python threads in different functions and one model: same bits, nobody waits, no GIL held.

The thread pool itself, signals and forks while it computes are in test_parallel.py.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import fastconv as fc
import numpy as np
import pytest
from support import available_isas, integers, normals

RNG = np.random.default_rng(5)
X = normals((3, 16, 30, 31), RNG)
WEIGHT, DEPTHWISE = normals((24, 16, 3, 3), RNG), normals((16, 1, 3, 3), RNG)
Y, ROWS, MATRIX = normals((3, 24, 30, 31), RNG), normals((40, 700), RNG), normals((33, 700), RNG)
CHANNELS = normals((16,), RNG)

CALLS: dict[str, Callable[[], Any]] = {
    "conv2d": lambda: fc.conv2d(X, WEIGHT, padding=1),
    "im2col": lambda: fc.conv2d(X, WEIGHT, padding=1, algorithm="im2col"),
    "depthwise": lambda: fc.conv2d(X, DEPTHWISE, padding=1, groups=16),
    "grad_input": lambda: fc.conv2d_grad_input(Y, WEIGHT, X.shape, padding=1),
    "grad_weight": lambda: fc.conv2d_grad_weight(Y, X, WEIGHT.shape, padding=1),
    "conv_transpose2d": lambda: fc.conv_transpose2d(Y, WEIGHT, stride=2),
    "linear": lambda: fc.linear(ROWS, MATRIX),
    "linear_backward": lambda: fc.linear_backward(ROWS[:, :33], ROWS, MATRIX),
    "max_pool2d": lambda: fc.max_pool2d(X, 3, stride=2, return_indices=True),
    "avg_pool2d": lambda: fc.avg_pool2d(X, 3, stride=2),
    "batch_norm": lambda: fc.batch_norm(X, weight=CHANNELS, training=True),
    "local_response_norm": lambda: fc.local_response_norm(X, 5),
    "softmax": lambda: fc.softmax(ROWS),
    "sigmoid": lambda: fc.sigmoid(X),
    "dropout": lambda: fc.dropout(X, 0.3, seed=9),
    "cross_entropy": lambda: fc.cross_entropy(ROWS, np.arange(40)),
}


def bits(result: Any) -> bytes:
    parts = result if isinstance(result, tuple) else (result,)
    return b"".join(np.asarray(part).tobytes() for part in parts)


def run_all(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_different_functions_at_the_same_time() -> None:
    expected = {name: bits(call()) for name, call in CALLS.items()}
    wrong: list[str] = []
    start = threading.Barrier(4)

    def work(first: int) -> None:
        names = list(CALLS)
        names = names[first:] + names[:first]
        start.wait()
        for _ in range(5):
            wrong.extend(name for name in names if bits(CALLS[name]()) != expected[name])

    run_all([threading.Thread(target=work, args=(4 * i,)) for i in range(4)])
    assert wrong == []


def test_one_model_in_many_threads() -> None:
    """Eval mode packs weights at the first call: all threads make it at once."""
    images = normals((4, 1, 28, 28), np.random.default_rng(1))
    model = fc.models.lenet5()
    model.eval()
    state = model.state_dict()
    expected = bits(model(images))
    for _ in range(5):
        fresh = fc.models.lenet5()
        fresh.load_state_dict(state)
        fresh.eval()
        start = threading.Barrier(6)
        found: list[bytes] = []

        def work(fresh: Any = fresh, start: Any = start, found: Any = found) -> None:
            start.wait()
            found.extend(bits(fresh(images)) for _ in range(3))

        run_all([threading.Thread(target=work) for _ in range(6)])
        assert found == [expected] * 18


def test_a_forced_instruction_set_stays_in_its_thread() -> None:
    names = available_isas()
    inside, leave = threading.Event(), threading.Event()
    seen: list[str] = []

    def other() -> None:
        with fc.isa(names[-1]):
            inside.set()
            leave.wait(60)
            seen.append(fc.get_isa())

    before = fc.get_isa()
    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(60)
    assert fc.get_isa() == before
    nested = threading.Thread(target=lambda: seen.append(fc.get_isa()))
    run_all([nested])
    leave.set()
    thread.join()
    assert seen == [before, names[-1]]


def long_and_short(short: Callable[[], Any]) -> tuple[float, float]:
    """(seconds that 20 short calls took, seconds that the long call beside them still ran then)."""
    x, weight = np.ones((1, 64, 64, 64), np.float32), np.ones((64, 64, 3, 3), np.float32)
    inside, ended = threading.Event(), []

    def long() -> None:
        inside.set()
        fc.conv2d(x, weight, padding=1, algorithm="naive")
        ended.append(time.perf_counter())

    thread = threading.Thread(target=long)
    thread.start()
    inside.wait()
    time.sleep(0.01)  # well inside the kernel
    begin = time.perf_counter()
    for _ in range(20):
        short()
    end = time.perf_counter()
    thread.join()
    return end - begin, ended[0] - end


def test_a_second_caller_does_not_wait_for_the_first() -> None:
    """A naive convolution of a second or so; small calls meanwhile return before it does."""
    small, weight = np.ones((1, 8, 12, 12), np.float32), np.ones((8, 8, 3, 3), np.float32)
    for _ in range(3):  # on a loaded machine the first calls may be late
        took, left = long_and_short(lambda: fc.conv2d(small, weight))
        if left > 0:
            return
    pytest.fail(f"20 small calls took {took:.3f} s and ended {-left:.3f} s after the long one")


BIG = normals((2, 64, 160, 160), RNG)
LONG: dict[str, Callable[[], Any]] = {
    "conv2d": lambda: fc.conv2d(BIG, np.ones((64, 64, 3, 3), np.float32)),
    "grad_weight": lambda: fc.conv2d_grad_weight(BIG, BIG, (64, 64, 1, 1)),
    "grad_bias": lambda: fc.conv2d_grad_bias(BIG),
    "linear": lambda: fc.linear(BIG.reshape(3200, 1024), np.ones((256, 1024), np.float32)),
    "max_pool2d": lambda: fc.max_pool2d(BIG, 3, stride=1),
    "batch_norm": lambda: fc.batch_norm(BIG, training=True),
    "local_response_norm": lambda: fc.local_response_norm(BIG, 5),
    "softmax": lambda: fc.softmax(BIG),
    "tanh": lambda: fc.tanh(BIG),
    "dropout": lambda: fc.dropout(BIG, 0.5, seed=1),
    "cross_entropy": lambda: fc.cross_entropy(
        BIG.reshape(3200, 1024), np.zeros(3200, dtype=np.int64)
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_python_runs_while_a_kernel_does(name: str) -> None:
    """Held, the GIL would be handed over once or twice around the call; free, at every tick. The
    kernel has one thread, so that the counting one finds a processor, and many tries."""
    threads = fc.get_num_threads()
    fc.set_num_threads(1)
    stop = threading.Event()
    ticks = 0

    def count() -> None:
        nonlocal ticks
        while not stop.is_set():
            ticks += 1
            time.sleep(1e-5)

    thread = threading.Thread(target=count)
    thread.start()
    try:
        most = 0
        for _ in range(100):
            before = ticks
            LONG[name]()
            most = max(most, ticks - before)
            if most > 4:
                break
    finally:
        stop.set()
        thread.join()
        fc.set_num_threads(threads)
    assert most > 4


def compute_in_child(names: list[str]) -> dict[str, bytes]:
    return {name: bits(CALLS[name]()) for name in names}


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_children_of_a_fork_compute_the_same() -> None:
    """Every family, and a model packed before the fork."""
    expected = {name: bits(call()) for name, call in CALLS.items()}
    model = fc.models.lenet5()
    model.eval()
    images = integers((2, 1, 28, 28), RNG)
    logits = bits(model(images))
    child = os.fork()
    if child == 0:
        same = bits(model(images)) == logits and compute_in_child(list(CALLS)) == expected
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with multiprocessing.get_context("fork").Pool(2) as pool:
        parts = pool.map_async(compute_in_child, [[name] for name in CALLS]).get(timeout=60)
    assert {name: found for part in parts for name, found in part.items()} == expected
