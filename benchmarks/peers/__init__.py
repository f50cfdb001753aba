"""The libraries that are measured side by side: one file each, listed here by name.

A peer offers *variants* of a problem (an algorithm, a memory order). ``prepare`` brings the
operands into the order that the variant likes, outside of the time; the call it returns gets raw
weights, packs whatever it packs, allocates its result, and is what is timed. A peer whose threads
would disturb others is driven in a process of its own (see ``process``); the interface is the same.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ..operations import Array, Operands
from ..problems import Problem

#: name on the command line -> module in this package, and the function there that makes the peer
PEERS = {
    "fastconv": ("fastconv_kernels", "peer"),
    "pytorch": ("pytorch", "peer"),
    "numpy": ("numpy_reference", "peer"),
    "onnxruntime": ("network_runtimes", "OnnxRuntime"),
    "openvino": ("network_runtimes", "OpenVino"),
    "mnn": ("network_runtimes", "Mnn"),
    "ncnn": ("network_runtimes", "Ncnn"),
}

#: ends the plan of an algorithm that ``auto`` is not allowed: it is no choice that ``auto`` missed
ONLY_BY_NAME = "rounds more than auto may"


@dataclass(frozen=True)
class Prepared:
    """One variant of one problem, ready to be called."""

    call: Callable[[], Any]
    arrays: Callable[[Any], tuple[Array, ...]]  # the call's result as NumPy arrays, logical order
    plan: Callable[[], str] = lambda: ""  # which kernel runs, in the library's own words


@dataclass(frozen=True)
class Settings:
    """What every peer must keep to, so that all run under the same conditions."""

    threads: int
    isa: str | None = None
    algorithms: tuple[str, ...] = ("auto", "im2col", "naive")


class Peer(Protocol):
    """One library."""

    def start(self, settings: Settings) -> str | None:
        """Import the library and set its threads; the reason where it can't be used here."""
        ...

    def versions(self) -> dict[str, str]:
        """Versions and build facts, after ``start``."""
        ...

    def variants(self, problem: Problem) -> list[str]:
        """The rows that this library has for a problem, the one to compare with first."""
        ...

    def slowness(self, variant: str) -> float:
        """Seconds for 10**9 multiply-adds, a first guess: hopeless rows are not begun.

        0 for a row that is never left out.
        """
        ...

    def prepare(self, problem: Problem, operands: Operands, variant: str) -> Prepared:
        """Bring the operands into the variant's order; ``LookupError`` where there is none."""
        ...


def load_peer(name: str) -> Peer:
    """The peer of that name; an unknown name is a ``ValueError``."""
    if name not in PEERS:
        raise ValueError(f"unknown peer {name!r}; known: {', '.join(PEERS)}")
    module, make = PEERS[name]
    peer: Peer = getattr(importlib.import_module(f"{__name__}.{module}"), make)()
    return peer
