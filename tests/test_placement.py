"""On which CPUs workers wake: affinities are put back, can be left alone, and may be refused.

The choice of CPUs and the way of one thread are in cpp/test_placement.cpp.
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys

import fastconv as fc
import pytest


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_workers_keep_their_affinity() -> None:
    """The caller goes to the CPU where a worker sleeps, which is therefore woken on another."""
    code = """
import os, time
import fastconv as fc

def affinities():
    return {int(task): os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")}

def cpu(task):
    with open(f"/proc/self/task/{task}/stat") as file:
        return int(file.read().rsplit(")", 1)[1].split()[36])

others = affinities()  # NumPy's BLAS has threads of its own
fc._core.probe_fma(0.001, 2)
before = affinities()
worker, = set(before) - set(others)
met = 0
for _ in range(20):
    time.sleep(0.002)
    os.sched_setaffinity(0, {cpu(worker)})
    met += cpu(worker) == cpu(os.getpid())
    fc._core.probe_fma(0.001, 2)
os.sched_setaffinity(0, before[os.getpid()])
end = time.monotonic() + 10  # on a busy machine the worker may not have run since it was woken
while affinities() != before and time.monotonic() < end:
    time.sleep(0.01)
print(met > 0, affinities() == before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True", "True"], done.stdout + done.stderr


# A worker that sleeps on the caller's CPU and may use another: the caller narrows its affinity.
_MEETING = """
import ctypes, os, platform, resource, struct, sys, time
import fastconv as fc

SETAFFINITY = {"x86_64": 203, "aarch64": 122}[platform.machine()]
KILL, REFUSE, ALLOW = 0x80000000, 0x00050000 | 1, 0x7FFF0000  # seccomp(2); 1 is EPERM

def filter_setaffinity(action):  # of this thread only
    program = ((0x20, 0, 0, 0), (0x15, 0, 1, SETAFFINITY), (6, 0, 0, action), (6, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    prctl = ctypes.CDLL(None).prctl
    if prctl(38, 1, 0, 0, 0) or prctl(22, 2, struct.pack("HP", 4, ctypes.addressof(code)), 0, 0):
        sys.exit("no seccomp")  # PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP

def asleep(task, cpu):
    with open(f"/proc/self/task/{task}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return fields[0] == "S" and int(fields[36]) == cpu

others = set(os.listdir("/proc/self/task"))  # NumPy's BLAS has threads of its own
fc._core.probe_fma(0.001, 2)
worker, = map(int, set(os.listdir("/proc/self/task")) - others)
cpus = os.sched_getaffinity(0)

for task in (0, worker):
    os.sched_setaffinity(task, {min(cpus)})
fc._core.probe_fma(0.001, 2)
while not asleep(worker, min(cpus)):
    time.sleep(0.001)
time.sleep(0.02)  # asleep for want of work, not for a lock
os.sched_setaffinity(worker, cpus)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""
_needs_a_choice = pytest.mark.skipif(
    fc._core.available_cpus() < 2 or platform.machine() not in ("x86_64", "aarch64"),
    reason="needs two CPUs and the number of a system call",
)


def run_meeting(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "FASTCONV_PLACE_WORKERS"}
    done = subprocess.run(
        [sys.executable, "-c", _MEETING + code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.stderr == "no seccomp\n":
        pytest.skip("this system allows no seccomp filters")
    return done


@_needs_a_choice
@pytest.mark.parametrize(
    ("value", "status"), [("0", 0), ("1", -signal.SIGSYS)], ids=["left alone", "placed"]
)
def test_affinities_can_be_left_alone(value: str, status: int) -> None:
    """Where setting one kills: with "1" too, or else this test would see nothing."""
    done = run_meeting(
        "filter_setaffinity(KILL)\nfc._core.probe_fma(0.001, 2)", FASTCONV_PLACE_WORKERS=value
    )
    assert done.returncode == status, done.stderr


@_needs_a_choice
def test_a_refused_affinity_is_not_asked_for_again() -> None:
    code = """
filter_setaffinity(REFUSE)
before = fc._core.places_workers()
fc._core.probe_fma(0.001, 2)
print(before, fc._core.places_workers())
filter_setaffinity(KILL)  # the stricter of two filters is obeyed
for _ in range(20):
    time.sleep(0.002)
    fc._core.probe_fma(0.001, 2)
print("alive")
"""
    done = run_meeting(code)
    assert done.stdout.split() == ["True", "False", "alive"], done.stderr
