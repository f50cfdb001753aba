"""What the device is and can do: part of the JSON file."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import torch

from .. import machine
from .clock import Clock

ASKED = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw"


def device_facts() -> dict[str, Any]:
    """Its name and size, and what nvidia-smi says of driver, clocks and temperature."""
    properties = torch.cuda.get_device_properties(0)
    try:
        answer = subprocess.run(
            ["nvidia-smi", f"--query-gpu={ASKED}", "--format=csv,noheader"],
            capture_output=True, text=True, check=True, timeout=20,
        ).stdout.strip()  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        answer = ""
    return {
        "name": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": properties.L2_cache_size,
        **dict(zip(ASKED.split(","), (v.strip() for v in answer.split(",")), strict=False)),
    }


def versions() -> dict[str, Any]:
    """Of what takes part."""
    import fastconv as fc

    return {
        "fastconv": fc.__version__,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn_benchmark_limit": torch.backends.cudnn.benchmark_limit,
        "python": sys.version.split()[0],
    }


def commit() -> str:
    """Of the code that is measured; BENCHMARK_COMMIT where it is not this checkout's."""
    return os.environ.get("BENCHMARK_COMMIT") or machine.commit() or "unknown"


def limits(clock: Clock) -> dict[str, Any]:
    """What bounds every kernel here, and what a call costs the host."""
    return {
        "copy_bytes_per_second": clock.copy_bandwidth(),
        "matrix_flops": {
            name: clock.matrix_peak(getattr(torch, name)) for name in ("bfloat16", "float32")
        },
        "host_seconds": _host(clock),
    }


def _host(clock: Clock) -> dict[str, float]:
    import fastconv as fc

    x = torch.randn(1, 8, 4, 4, device="cuda").contiguous(memory_format=torch.channels_last)
    w = torch.randn(8, 8, 1, 1, device="cuda")
    a, b = fc.cuda.asarray(x), fc.cuda.asarray(w)
    calls = {
        "fastconv": lambda _: fc.conv2d(a, b),
        "fastconv on tensors": lambda _: fc.conv2d(x, w),
        "pytorch": lambda _: torch.nn.functional.conv2d(x, w),
    }
    return {name: clock.host(call) for name, call in calls.items()}
