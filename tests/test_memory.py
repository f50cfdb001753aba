"""What a call takes beside its operands: 4 MB a thread and the workspace's limit; nothing stays.

Measured as the peak of the resident set in a process of its own, which touches its operands first.
"""

from __future__ import annotations

import os
import subprocess
import sys

import fastconv as fc
import numpy as np
import pytest
from fastconv import _core

pytestmark = [
    pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc/self/status"),
    pytest.mark.skipif(bool(_core.sanitize), reason="a sanitizer has memory of its own"),
]

HEAD = """
import gc, sys
import numpy as np, fastconv as fc

def resident(which):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(which)) / 1024  # MB
"""

# 64 x 224 x 224 by 3 x 3: its im2col matrix has 115.6 MB. Whatever is written exists before.
PEAK = """
fc.set_num_threads(3)
x, w = np.ones((1, 64, 224, 224), np.float32), np.ones((64, 64, 3, 3), np.float32)
if {last}:
    x, w = fc.channels_last(x), fc.channels_last(w)
y, dw = np.zeros_like(x), np.zeros_like(w)
options = {{"padding": 1, "algorithm": {algorithm!r}}}
small = x[:, :, :8, :8]
fc.conv2d(small, w, **options)  # the threads and their stacks are there
before = resident("VmHWM")
{call}
print(resident("VmHWM") - before)
"""

DIRECTIONS = {
    "forward": "fc.conv2d(x, w, out=y, **options)",
    "grad_input": "fc.conv2d_grad_input(x, w, x.shape, out=y, **options)",
    "grad_weight": "fc.conv2d_grad_weight(x, x, w.shape, out=dw, **options)",
}


def run(code: str, megabytes: int = 16) -> list[float]:
    environment = os.environ | {"FASTCONV_WORKSPACE_MB": str(megabytes)}
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], env=environment, capture_output=True, text=True,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [float(number) for number in done.stdout.split()]


@pytest.mark.parametrize("last", [False, True], ids=["C", "channels_last"])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col"])
@pytest.mark.parametrize("direction", DIRECTIONS)
def test_a_convolution_takes_what_the_contract_allows(direction, algorithm, last):
    (extra,) = run(PEAK.format(call=DIRECTIONS[direction], algorithm=algorithm, last=last))
    assert extra < 3 * 4 + 16 + 4  # the last for pages of Python and of the allocator


def test_nothing_stays_after_many_calls_of_many_shapes():
    code = """
rng = np.random.default_rng(0)
def calls(count):
    for _ in range(count):
        c, k, h, w = (int(n) for n in rng.integers(1, 40, 4))
        x, weight = np.ones((2, c, h, w), np.float32), np.ones((k, c, 3, 3), np.float32)
        y = fc.conv2d(x, weight, padding=1)
        fc.conv2d_backward(y, x, weight, padding=1)
        fc.conv2d(x, fc.pack_weight(weight), padding=1)
        fc.max_pool2d(x, 3, stride=2, padding=1, return_indices=True)
        fc.batch_norm(fc.channels_last(x), training=False, running_mean=x[0, :, 0, 0] * 0,
                      running_var=x[0, :, 0, 0])
        fc.linear(x.reshape(2, -1), np.ones((k, c * h * w), np.float32))
        fc.softmax(x)
        try:
            fc.conv2d(x, weight[:, :0])
        except ValueError:
            pass
calls(300)
before = resident("VmRSS")
calls(900)
gc.collect()
print(resident("VmRSS") - before)
"""
    (grown,) = run(code)
    assert grown < 12


def test_the_memory_of_a_result_comes_back_when_its_last_view_is_gone():
    x = np.ones((8, 16, 32, 32), np.float32)
    _core.release_idle_workspaces()
    assert _core.idle_result_bytes() == 0
    y = fc.relu(x)
    place, view = y.ctypes.data, y[3:]
    del y
    assert _core.idle_result_bytes() == 0  # held by the view
    z = fc.relu(x)
    places = {place, z.ctypes.data}
    assert len(places) == 2
    del view, z
    assert _core.idle_result_bytes() == 2 * x.nbytes
    again = [fc.relu(x) for _ in range(2)]
    assert {a.ctypes.data for a in again} == places
    del again
    small = fc.relu(x[0, 0])
    assert small.flags.owndata  # NumPy's own
    _core.release_idle_workspaces()
    assert _core.idle_result_bytes() == 0


def test_idle_results_are_bounded():
    code = """
x = np.ones((1 << 20,), np.float32)
held = [fc.relu(x) for _ in range(40)]  # 160 MB
del held
print(fc._core.idle_result_bytes() / 2**20, resident("VmRSS"))
fc._core.release_idle_workspaces()
print(resident("VmRSS"))
"""
    idle, before, after = run(code)
    assert 0 < idle <= 4 * 16
    assert before - after > 0.9 * idle  # the memory goes back to the system


STEPS = """
import resource
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
fc.set_num_threads(1)
L = fc.layers
conv = lambda c, k: [L.Conv2d(c, k, 3, padding=1), L.BatchNorm2d(k), L.ReLU()]
body = L.Residual(L.Sequential(*conv(16, 16), *conv(16, 16)[:2]))
short = L.Residual(L.Sequential(*conv(16, 32)[:2]), L.ZeroPaddedShortcut(16, 32))
model = L.Sequential(*conv(3, 16), body, L.ReLU(), short, L.ReLU(), L.MaxPool2d(2), L.Flatten(),
                     L.Dropout(0.5), L.Linear(32 * 32 * 32, 10))
optimizer = fc.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
loss = fc.layers.CrossEntropyLoss()
x = fc.channels_last(np.ones((8, 3, 64, 64), np.float32))
counts = []
for _ in range(10):
    before = faults()
    optimizer.zero_grad()
    loss(model(x), np.arange(8))
    model.backward(loss.backward(), need_input=False)
    optimizer.step()
    counts.append(faults() - before)
print(counts[0], min(counts[2:]))
"""


def test_steps_of_training_use_the_same_memory():
    """A step writes 40 MB of outputs and gradients, from the third on not to fresh pages."""
    first, later = run(STEPS, megabytes=128)
    assert first > 100
    assert later < 50


@pytest.mark.parametrize("size", [4, 1 << 14])  # below and above what has memory of our own
def test_a_result_may_be_frozen_and_thawed(size):
    for y in (fc.relu(np.ones(size, np.float32)), fc.conv2d(*[np.ones((1, 1, 1, size))] * 2)):
        y.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            y[...] = 2
        y.flags.writeable = True
        y[...] = 2
        assert memoryview(y).nbytes == y.nbytes
    y = fc.relu(np.ones((1, 4, 64, 64), np.float32))
    assert memoryview(y.base).readonly is False
