"""What this machine is, and what it can do at this moment.

The facts go into the JSON file. The probes (FMA peak, read bandwidth, ping between cores) are run
beside the samples, because on a shared or virtual machine all three drift within seconds; nothing
here is a constant of some processor.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

PEAK_SECONDS = 0.002
READ_SECONDS = 0.003
LARGEST_READ = 256 << 20  # bytes; more than most last-level caches hold

ROOT = Path(__file__).resolve().parent.parent


class Probes:
    """Measures the machine by fastconv's own loops; all None without the compiled module."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._core = _compiled_module()
        self._buffer: Any = None

    @property
    def available(self) -> bool:
        return self._core is not None

    def peak_flops(self) -> float | None:
        """Floating-point operations a second of fused multiply-adds on registers, all threads."""
        if self._core is None:
            return None
        return float(self._core.probe_fma(PEAK_SECONDS, self._threads))

    def read_bandwidth(self, size: int) -> float | None:
        """Bytes a second, all threads, reading ``size`` bytes again and again: the caches count."""
        if self._core is None:
            return None
        size = min(max(size, self._threads << 14), LARGEST_READ)
        if self._buffer is None or self._buffer.nbytes < size:
            self._buffer = np.ones(size // 4, dtype=np.float32)
        return float(
            self._core.probe_read_buffer(self._buffer[: size // 4], READ_SECONDS, self._threads)
        )

    def ping(self) -> float | None:
        """Seconds for a cache line to go to another core and back; None with one core."""
        if self._core is None or self._threads < 2:
            return None
        return float(self._core.probe_ping()) * 1e-9 or None


def _compiled_module() -> Any:
    try:
        from fastconv import _core
    except ImportError:
        return None
    return _core


def facts() -> dict[str, Any]:
    """Processor, caches, memory, system, Python, and the environment variables that matter."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "virtual": _is_virtual(),
        "caches": _caches(),
        "memory_bytes": _memory_bytes(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(
                ("FASTCONV_", "OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ONEDNN_", "ATEN_")
            )
        },
    }


def commit() -> str | None:
    """The checkout's commit, with ``+`` where tracked files differ from it; None outside of git."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _processor_field(name: str) -> str | None:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def _processor() -> str:
    return _processor_field("model name") or platform.processor() or platform.machine()


def _is_virtual() -> bool | None:
    flags = _processor_field("flags")
    return None if flags is None else "hypervisor" in flags.split()


def _caches() -> dict[str, str]:
    found = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind = _read(f"{folder}/level"), _read(f"{folder}/type")
        size, shared = _read(f"{folder}/size"), _read(f"{folder}/shared_cpu_list")
        found[f"L{level} {kind}"] = f"{size} shared by {shared}"
    return found


def _memory_bytes() -> int | None:
    if sys.platform.startswith("win"):
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
