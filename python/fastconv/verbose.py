"""FASTCONV_VERBOSE=1: one line a call through ``logging.getLogger("fastconv")``, level INFO.

    fastconv: conv2d x=(1,3,5,5)float32 weight=(4,3,3,3)float32 padding=1 -> (1,4,5,5)float32
              | direct avx512 2 threads | 0.112 ms                    (in one line)

The public functions are wrapped when the package is imported with the variable set, so that a
process without it pays nothing. A function that calls another public one gives one line, its own.
Where the program has not configured logging, the lines go to stderr.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from . import _core
from .ops.devices import cuda_core, on_device

_logger = logging.getLogger("fastconv")
_call = threading.local()  # .depth of nested public calls, .algorithm that the kernel reported


def wanted() -> bool:
    """Does the environment ask for the lines?"""
    return os.environ.get("FASTCONV_VERBOSE", "0") not in ("", "0")


def install(ops: Any) -> None:
    """Wrap the functions that `ops.__all__` names, in place."""
    _logger.setLevel(logging.INFO)
    if not logging.getLogger().handlers and not _logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(name)s: %(message)s"))
        _logger.addHandler(handler)
    _note_algorithms()
    for name in ops.__all__:
        function = getattr(ops, name)
        if callable(function) and not isinstance(function, type):
            setattr(ops, name, _logged(name, function))


def _note_algorithms() -> None:
    """conv2d of _core and _core.cuda return the index of the algorithm that ran: keep it for the
    line."""
    modules: tuple[Any, ...] = (_core, cuda_core)
    for module in modules:
        module.conv2d = _noting(module.conv2d)


def _noting(kernel: Callable[..., int]) -> Callable[..., int]:
    def noting(*arguments: Any, **options: Any) -> int:
        index = kernel(*arguments, **options)
        _call.algorithm = _core.conv2d_algorithms[index]
        return index

    return noting


def _logged(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        depth = getattr(_call, "depth", 0)
        if depth:
            return function(*arguments, **keywords)
        _call.depth, _call.algorithm = 1, ""
        start = time.perf_counter()
        try:
            result = function(*arguments, **keywords)
        finally:
            milliseconds = (time.perf_counter() - start) * 1e3
            _call.depth = 0
        if not _has_arrays(result):
            return result  # a question about shapes or names: no kernel ran
        given = {**dict(zip(names, arguments, strict=False)), **keywords}
        _logger.info("%s", _line(name, given, result, milliseconds))
        return result

    return call


def _line(name: str, given: dict[str, Any], result: Any, milliseconds: float) -> str:
    what = " ".join(f"{key}={_short(value)}" for key, value in given.items())
    if _on_gpu(result):  # the time is that of enqueueing; nothing waits for the kernels
        how = f"{_call.algorithm} cuda".strip()
    else:
        how = f"{_call.algorithm} {_core.current_isa()} {_core.num_threads()} threads".strip()
    return f"{name} {what} -> {_short(result)} | {how} | {milliseconds:.3f} ms"


def _on_gpu(result: Any) -> bool:
    first = result[0] if isinstance(result, tuple) else result
    where = getattr(first, "__dlpack_device__", None)
    return on_device(first) or (where is not None and int(where()[0]) == 2)


def _has_arrays(result: Any) -> bool:
    return any(
        hasattr(item, "shape") for item in (result if isinstance(result, tuple) else (result,))
    )


def _short(value: Any) -> str:
    shape = getattr(value, "shape", None)
    if isinstance(value, tuple) and _has_arrays(value):
        return "(" + ", ".join(_short(item) for item in value) + ")"
    if shape is None:
        return str(value).replace(" ", "") if not callable(value) else type(value).__name__
    dtype = str(getattr(value, "dtype", "")).removeprefix("torch.")
    return "(" + ",".join(map(str, shape)) + f"){dtype}"
