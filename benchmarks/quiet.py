"""Waits until other threads stand still.

OpenMP's workers go on spinning after a parallel region (libgomp for milliseconds), and whoever is
measured next would share its cores with them. A thread's state in ``/proc`` is ``R`` while it
spins and ``S`` while it sleeps, at once and without the 10 ms grain of its processor time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

POLL_SECONDS = 0.0002
CALM_POLLS = 2  # a thread can be seen asleep between two spins' yields


def wait_until_quiet(processes: Iterable[int] = (), timeout: float = 1.0) -> bool:
    """Wait until no other thread of this process and of ``processes`` runs; False after
    ``timeout``.

    Where the system shows no thread states (not Linux), sleep 20 ms and return True.
    """
    if not Path("/proc/self/task").is_dir():
        time.sleep(0.02)
        return True
    watched = [os.getpid(), *processes]
    deadline = time.perf_counter() + timeout
    calm = 0
    while calm < CALM_POLLS:
        calm = 0 if _any_running(watched) else calm + 1
        if time.perf_counter() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _any_running(processes: Iterable[int]) -> bool:
    own = threading.get_native_id()
    for process in processes:
        try:
            threads = os.listdir(f"/proc/{process}/task")
        except OSError:  # it has ended
            continue
        if any(int(thread) != own and _state(process, thread) == "R" for thread in threads):
            return True
    return False


def _state(process: int, thread: str) -> str:
    try:
        with open(
            f"/proc/{process}/task/{thread}/stat", encoding="utf-8", errors="replace"
        ) as file:
            return file.read().rpartition(")")[2].split()[0]  # the name before may hold spaces
    except (OSError, IndexError):
        return ""


def others_running() -> int | None:
    """Threads of the whole system that run or wait for a processor, this one aside."""
    try:
        with open("/proc/loadavg", encoding="ascii") as file:
            return max(0, int(file.read().split()[3].partition("/")[0]) - 1)
    except (OSError, ValueError, IndexError):
        return None
