"""What the tests of the benchmark for CUDA devices share; importing it skips a module without
PyTorch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import fastconv as fc
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
families = pytest.importorskip("benchmarks.gpu.families", reason="not a checkout")

SMALL = families.Sizes(
    image=(2, 8, 6, 5),
    responses=((2, 12, 5, 4),),
    last=(3, 16, 4, 4),
    halved=(2, 4, 3, 5),
    logits=(6, 9),
    parameters=1001,
    depthwise=((8, 7, 1), (8, 7, 2)),
    matrices=((12, 5),),
    vectors=(2, 3),
)
#: through fc.cuda.asarray: on a device only
ON_DEVICE = ("to_c_order", "cast_from_float32", "cast_to_float32")


def on_the_cpu(dtype: Any) -> list[Any]:
    return [row for row in families.memory_bound(SMALL, dtype) if row.name not in ON_DEVICE]


def on_the_host(array: Any) -> Any:
    """Instead of checks.as_tensor, where PyTorch does not know the device."""
    if isinstance(array, (torch.Tensor, np.floating)):
        return torch.as_tensor(array)
    wide = "float32" if array.dtype.name in ("bfloat16", "float16") else array.dtype.name
    return torch.from_numpy(np.array(fc.cuda.asnumpy(array.astype(wide))))
