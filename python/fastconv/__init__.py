"""fastconv: fast convolution, pooling and training of convolutional networks for NumPy arrays.

Functions (`conv2d`, `max_pool2d`, ...) are here; `fc.layers`, `fc.models`, `fc.optim`, `fc.init`,
`fc.data`, `fc.reference` and `fc.cuda` are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import Any

from . import ops
from ._core import __version__
from .config import (
    get_isa,
    get_num_threads,
    isa,
    set_isa,
    set_num_threads,
    show_config,
    warn_of_unknown_variables,
)

# A public name that would make the import slow -> the module it comes from, loaded at first use.
# A module's own name stands for the module, so a module must not bear the name of a function it
# offers here: importing it would hide the function.
_LAZY = {
    "Parameter": "layers",
    "cuda": "cuda",
    "data": "data",
    "explain": "explanation",
    "fit": "training",
    "gradcheck": "gradient_check",
    "init": "init",
    "layers": "layers",
    "models": "models",
    "optim": "optim",
    "read_checkpoint": "checkpoint",
    "reference": "reference",
    "summary": "summary_table",
    "verify": "verification",
}

__all__ = [
    "__version__",
    "get_isa",
    "get_num_threads",
    "isa",
    "ops",
    "set_isa",
    "set_num_threads",
    "show_config",
    *ops.__all__,
    *_LAZY,
]


def _start() -> None:
    from os import environ

    warn_of_unknown_variables()
    if "FASTCONV_VERBOSE" in environ:
        from . import verbose

        if verbose.wanted():
            verbose.install(ops)


_start()
from .ops import *  # noqa: E402, F403  (ops.__all__ is the list; after _start, which may wrap it)


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LAZY[name]}")
    value = module if _LAZY[name] == name else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
