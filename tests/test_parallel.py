"""The thread pool as Python programs meet it: fork, many callers, other libraries' exits.

What needs no interpreter is in cpp/test_core.cpp, which also runs under ThreadSanitizer.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import fastconv as fc
import numpy as np
import pytest

X = (np.arange(4 * 8 * 20 * 20) % 11 - 5).astype(np.float32).reshape(4, 8, 20, 20)
WEIGHT = (np.arange(32 * 8 * 3 * 3) % 5 - 2).astype(np.float32).reshape(32, 8, 3, 3)


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    """More threads than some machines have CPUs: must work too."""
    before = fc.get_num_threads()
    fc.set_num_threads(4)
    yield
    fc.set_num_threads(before)


def convolve(_: object = None) -> bytes:
    # `auto` may take Winograd on some instruction sets, which is not exact with small integers.
    return fc.conv2d(X, WEIGHT, padding=1, algorithm="direct").tobytes()


def wait_for(child: int) -> int:
    """The child's exit code; one that hangs is killed after a minute and reported as -SIGALRM."""

    def kill(*_: object) -> None:
        os.kill(child, signal.SIGKILL)

    before = signal.signal(signal.SIGALRM, kill)
    signal.alarm(60)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# Python 3.12 warns of any fork with threads alive: exactly what this tests.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_fork_after_the_pool_started() -> None:
    expected = convolve()
    for _ in range(5):
        child = os.fork()
        if child == 0:
            os._exit(0 if convolve() == expected and convolve() == expected else 1)
        assert wait_for(child) == 0
    assert convolve() == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_fork_while_other_threads_compute() -> None:
    expected = convolve()
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            convolve()

    threads = [threading.Thread(target=compute) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(10):
            child = os.fork()
            if child == 0:
                os._exit(0 if convolve() == expected else 1)
            assert wait_for(child) == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_multiprocessing_by_fork() -> None:
    expected = convolve()
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(convolve, range(6)).get(timeout=60) == [expected] * 6


def test_many_callers_get_their_own_results() -> None:
    expected = convolve()
    wrong: list[int] = []

    def call(number: int) -> None:
        for _ in range(20):
            if convolve() != expected:
                wrong.append(number)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_each_thread_keeps_its_instruction_set_under_load() -> None:
    names = fc._core.supported_isas()
    expected = convolve()
    seen: list[tuple[str, str, bool]] = []

    def call(name: str) -> None:
        with fc.isa(name):
            for _ in range(10):
                right = convolve() == expected  # small integers: exact in each of them
                seen.append((name, fc.get_isa(), right))

    threads = [threading.Thread(target=call, args=(name,)) for name in names * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 20 * len(names)
    assert all(wanted == got and right for wanted, got, right in seen)


def test_the_gil_is_released() -> None:
    """A Python thread goes on counting while another is inside one long kernel call."""
    counted = 0
    inside = threading.Event()
    done = threading.Event()

    def kernel() -> None:
        inside.set()
        fc._core.probe_fma(0.5, 1)
        done.set()

    thread = threading.Thread(target=kernel)
    thread.start()
    inside.wait()
    while not done.is_set():
        counted += 1
        done.wait(0.001)
    thread.join()
    assert counted > 20


@pytest.mark.parametrize("end", ["", "import os; os._exit(0)", "raise SystemExit(0)"])
def test_process_ends_with_workers_alive(end: str) -> None:
    code = f"""
import numpy as np, fastconv as fc
fc.set_num_threads(4)
fc.conv2d(np.ones((4, 8, 30, 30), np.float32), np.ones((32, 8, 3, 3), np.float32))
{end}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_workers_leave_signals_to_the_program() -> None:
    code = """
import os, signal, time
import fastconv as fc
others = set(os.listdir("/proc/self/task"))  # NumPy's BLAS has threads of its own
fc._core.probe_fma(0.01, 4)
ours = set(os.listdir("/proc/self/task")) - others
assert len(ours) == 3, ours
def handler(*_):
    print("handled")
    raise SystemExit(3)
signal.signal(signal.SIGUSR1, handler)
for task in ours:
    with open(f"/proc/self/task/{task}/status") as file:
        blocked = next(line for line in file if line.startswith("SigBlk")).split()[1]
    assert int(blocked, 16) >> (signal.SIGUSR1 - 1) & 1, blocked
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(1)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (3, "handled"), done.stderr
