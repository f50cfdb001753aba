"""What the benchmark for CUDA devices compares is the same function on both sides: on PyTorch's CPU
tensors, and our side on the emulated device's arrays too."""

from __future__ import annotations

from typing import Any

import fastconv as fc
import pytest
from gpu_benchmark_support import SMALL, families, on_the_cpu, on_the_host, torch

from benchmarks.gpu import checks, rows


@pytest.fixture(autouse=True)
def _on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "DEVICE", "cpu")
    torch.manual_seed(0)


@pytest.mark.parametrize("row", on_the_cpu(torch.float32), ids=lambda row: f"{row[0]}-{row[1]}")
def test_both_sides_compute_the_same(row: Any) -> None:
    prepared = row.make()
    operands = prepared.sets[0]
    expected = checks.exactly(prepared, operands, "float32")
    for call in (prepared.ours, prepared.theirs):
        own = {k: v if v.requires_grad else v.clone() for k, v in operands.items()}
        result = call(own)
        if prepared.check is not None:
            assert prepared.check(result, operands) < 1e-6
        else:
            assert checks.distance(result, expected) < checks.TOLERANCE["float32"]
    assert prepared.bytes_moved > 0


def device_array(tensor: Any) -> Any:
    """The emulated device's array of the same values, dtype and memory order; None for masks and
    graphs, which are PyTorch's."""
    if tensor.requires_grad or tensor.dtype == torch.bool:
        return None
    if not tensor.is_floating_point():
        return fc.cuda.asarray(tensor.numpy())
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    dtype = str(tensor.dtype).partition(".")[2]
    order = "channels_last" if last else None
    return fc.cuda.asarray(tensor.float().numpy(), dtype=dtype, order=order)


def all_rows() -> list[Any]:
    return [
        pytest.param(dtype, row, id=f"{str(dtype)[6:]}-{row.name}-{row.direction}")
        for dtype in (torch.bfloat16, torch.float16)
        for row in families.memory_bound(SMALL, dtype)
    ]


@pytest.mark.skipif(not fc.cuda.is_available(), reason="no CUDA arrays here")
@pytest.mark.parametrize(("dtype", "row"), all_rows())
def test_ours_in_16_bits(dtype: Any, row: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of ours on a device's arrays, within what the session allows."""
    monkeypatch.setattr(checks, "as_tensor", on_the_host)
    try:
        prepared, name = row.make(), str(dtype).partition(".")[2]
    except NotImplementedError as error:
        pytest.skip(f"PyTorch's CPU: {error}")
    operands = prepared.sets[0]
    result = prepared.ours({key: device_array(tensor) for key, tensor in operands.items()})
    if prepared.check is not None:
        assert prepared.check(on_the_host(result), operands) < checks.TOLERANCE[name]
    else:
        expected = checks.exactly(prepared, operands, name)
        assert checks.distance(result, expected) < checks.TOLERANCE[name]
