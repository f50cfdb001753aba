"""How many processors there are for us. Imports no NumPy, whose threads follow from this."""

from __future__ import annotations

import os
from pathlib import Path


def default_threads() -> int:
    """Processors that this process may use, by affinity and cgroup quota."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:
        processors = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(processors, int(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2 here, or "max"
        return processors
