"""Copies between memory orders and dtypes; SGD's step."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fastconv as fc
import torch

from ..checks import sgd_exactly, sgd_ours, sgd_theirs
from ..rows import device, images
from .row import Operands, Row, Sizes, row, size_of


def rows(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """All of them."""
    yield from _copies(sizes, dtype)
    yield from _optimizer(sizes, dtype)


def _copies(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    shape, size = sizes.image, size_of(sizes.image, dtype.itemsize)

    def in_c_order() -> Operands:
        return {"x": images(*shape, dtype=dtype).contiguous()}

    def of(kind: torch.dtype) -> Callable[[], Operands]:
        return lambda: {"x": images(*shape, dtype=kind)}

    yield row(
        "to_channels_last", "forward", 2 * size, in_c_order, lambda o: fc.channels_last(o["x"]),
        lambda o: o["x"].contiguous(memory_format=torch.channels_last),
    )  # fmt: skip
    yield row(
        "to_c_order", "forward", 2 * size, of(dtype),
        lambda o: fc.cuda.asarray(o["x"]).copy("C"), lambda o: o["x"].contiguous(),
    )  # fmt: skip
    if dtype != torch.float32:
        for name, source, target in (("from", torch.float32, dtype), ("to", dtype, torch.float32)):
            yield row(
                f"cast_{name}_float32", "forward", size + size * 4 // dtype.itemsize, of(source),
                lambda o, t=target: fc.cuda.asarray(o["x"]).astype(str(t).partition(".")[2]),
                lambda o, t=target: o["x"].to(t),
            )  # fmt: skip


def _optimizer(sizes: Sizes, dtype: torch.dtype) -> Iterator[Row]:
    """SGD with momentum and weight decay; parameters of 16 bits have float32 masters, for which
    PyTorch needs a cast of the gradient before its fused step and a copy after it."""
    halves = dtype != torch.float32
    count = sizes.parameters

    def make() -> Operands:
        master, velocity = (torch.randn(count, device=device()) for _ in range(2))
        o = {"master": master, "velocity": velocity,
             "g": torch.randn(count, device=device()).to(dtype)}  # fmt: skip
        return {**o, "copy": master.to(dtype)} if halves else o

    size = count * (4 * 4 + dtype.itemsize * (2 if halves else 1))
    yield row("sgd", "step", size, make, lambda o: sgd_ours(o),
               lambda o: sgd_theirs(o), exact=lambda o: sgd_exactly(o),
               in_place=True)  # fmt: skip
