"""fastconv: fast convolution, pooling and training of convolutional networks for NumPy arrays.

Functions (`conv2d`, `max_pool2d`, ...) are here; `fc.layers`, `fc.models`, `fc.optim`, `fc.init`,
`fc.data`, `fc.reference` and `fc.cuda` are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:  # what the table below loads, for type checkers
    from . import cuda as cuda
    from . import data as data
    from . import init as init
    from . import layers as layers
    from . import models as models
    from . import optim as optim
    from . import reference as reference
    from .checkpoint import read_checkpoint as read_checkpoint
    from .explanation import explain as explain
    from .gradient_check import gradcheck as gradcheck
    from .inference import compile as compile
    from .layers import Parameter as Parameter
    from .precision import float32_precision as float32_precision
    from .precision import get_float32_precision as get_float32_precision
    from .precision import set_float32_precision as set_float32_precision
    from .summary_table import summary as summary
    from .training import fit as fit
    from .verification import verify as verify

# A public name that would make the import slow -> the module it comes from, loaded at first use.
# A module's own name stands for the module, so a module must not bear the name of a function it
# offers here: importing it would hide the function.
_LAZY = {
    "Parameter": "layers",
    "compile": "inference",
    "cuda": "cuda",
    "data": "data",
    "explain": "explanation",
    "fit": "training",
    "float32_precision": "precision",
    "get_float32_precision": "precision",
    "gradcheck": "gradient_check",
    "init": "init",
    "layers": "layers",
    "models": "models",
    "optim": "optim",
    "read_checkpoint": "checkpoint",
    "reference": "reference",
    "set_float32_precision": "precision",
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
