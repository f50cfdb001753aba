"""What float32 arithmetic may do beyond float32's own rounding.

"highest", the default: float32 means float32. "tf32" allows convolutions and linear layers on a
CUDA device to round their operands to TF32's 11 bits; on the CPU it is "highest". "high" allows
Winograd's F(6,3) and F(4,5) on the CPU, of about four times F(4,3)'s rounding error, and on a CUDA
device three TF32 products in place of one float32 product, with float32's accuracy
(docs/numerics.md), where tensor cores are faster by them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

NAMES = ("highest", "high", "tf32")

_process_choice = "highest"
_choice: ContextVar[str | None] = ContextVar("float32_precision", default=None)


def set_float32_precision(name: str) -> None:
    """Set the precision of float32 arithmetic for the process.

    Parameters
    ----------
    name : "highest", "high" or "tf32"

    Raises
    ------
    ValueError
        If the name is another one.
    """
    global _process_choice
    _process_choice = _checked("set_float32_precision", name)


def get_float32_precision() -> str:
    """The precision that calls of this thread and context use."""
    return _choice.get() or _process_choice


def precision_index() -> int:
    """The place in `NAMES` of the precision in force, as _core.cuda takes it."""
    return NAMES.index(get_float32_precision())


def allows_wide_tiles() -> bool:
    """Whether `auto` may take F(6,3) and F(4,5) on the CPU."""
    return (_choice.get() or _process_choice) == "high"


@contextmanager
def float32_precision(name: str) -> Iterator[None]:
    """Set the precision inside a ``with`` block, for this thread and context only.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.float32_precision("high"):
    ...     fc.get_float32_precision()
    'high'
    """
    token = _choice.set(_checked("float32_precision", name))
    try:
        yield
    finally:
        _choice.reset(token)


def _checked(function: str, name: str) -> str:
    if not isinstance(name, str) or name not in NAMES:  # NumPy's arrays answer == in their own way
        names = ", ".join(repr(n) for n in NAMES)
        raise ValueError(f"{function}: the precision is {name!r}; the names are {names}")
    return name
