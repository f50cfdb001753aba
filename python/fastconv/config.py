"""The machine and the choices a process makes: threads, instruction set, what was built.

Environment variables, read when they are first needed (a call of a function beats them):

========================= ==================================================================
FASTCONV_NUM_THREADS      threads a call uses; an order, obeyed beyond the CPUs there are
FASTCONV_PLACE_WORKERS    0: leave it to the kernel on which CPU a worker thread wakes; else
                          its affinity is narrowed for that moment
FASTCONV_ISA              scalar, avx2, avx512 or amx instead of the best that the processor has
FASTCONV_WORKSPACE_MB     memory for transformed weights and partial sums, default 128; four
                          times as much of results that are gone is kept for the next ones
FASTCONV_VERBOSE          1: one line a call through `logging`, read at import
FASTCONV_CUDA             AUTO, ON or OFF, when fastconv is built
FASTCONV_CUDA_ARCHS       architectures of the CUDA kernels, when fastconv is built, e.g. 86;90a
FASTCONV_TEST_DATA        where fastconv's own tests find data sets
========================= ==================================================================
"""

from __future__ import annotations

import contextlib
import operator
import os
import platform
import sys
from collections.abc import Iterator
from typing import Any

from . import _core

ENVIRONMENT = (
    "FASTCONV_NUM_THREADS",
    "FASTCONV_PLACE_WORKERS",
    "FASTCONV_ISA",
    "FASTCONV_WORKSPACE_MB",
    "FASTCONV_VERBOSE",
    "FASTCONV_CUDA",
    "FASTCONV_CUDA_ARCHS",
    "FASTCONV_TEST_DATA",
)
_OF_THE_TESTS = "FASTCONV_EMULATION"  # tests/emulation reads what begins so


def get_num_threads() -> int:
    """How many threads a call uses at most.

    Without `set_num_threads` and FASTCONV_NUM_THREADS it is the least of the CPUs of the process's
    affinity mask, its cgroup's quota and OMP_NUM_THREADS.

    Raises
    ------
    ValueError
        If FASTCONV_NUM_THREADS is not a number of threads.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def set_num_threads(threads: int) -> None:
    """Let calls of the whole process use up to `threads` threads, the caller's included.

    Results are the same bits for any number of threads.

    Parameters
    ----------
    threads : int
        1 to 256; may exceed the number of CPUs.

    Raises
    ------
    TypeError, ValueError
        If `threads` is not an integer, or out of range.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.set_num_threads(2)
    >>> fc.get_num_threads()
    2
    """
    if isinstance(threads, bool):
        raise TypeError(f"set_num_threads: threads must be an int, not {threads!r}")
    try:
        number = operator.index(threads)
    except TypeError:
        raise TypeError(
            f"set_num_threads: threads must be an int, not {type(threads).__name__} {threads!r}"
        ) from None
    if not 1 <= number <= 256:
        raise ValueError(f"set_num_threads: threads must be between 1 and 256, not {number}")
    _core.set_num_threads(number)


def get_isa() -> str:
    """The instruction set whose kernels a call from this thread takes now.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.get_isa() in ("amx", "avx512", "avx2", "scalar")
    True
    """
    return _core.current_isa()


def set_isa(name: str | None) -> None:
    """Choose the instruction set of the whole process; None returns to the automatic choice.

    Parameters
    ----------
    name : "scalar", "avx2", "avx512", "amx" or None
        "amx" is AVX-512 with matrix tiles: docs/numerics.md says how float32 goes through them.

    Raises
    ------
    ValueError
        If this build does not have it or this processor does not support it: there is no fallback.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.set_isa("scalar")
    >>> fc.get_isa()
    'scalar'
    >>> fc.set_isa(None)
    """
    _check_isa_type("set_isa", name)
    try:
        _core.set_process_isa(name)
    except ValueError as error:
        raise ValueError(f"set_isa: {error}") from None


@contextlib.contextmanager
def isa(name: str) -> Iterator[None]:
    """Within ``with fc.isa(name):`` calls from this thread take that instruction set's kernels.

    Other threads are not affected, and inside it `set_isa` has no effect on this one.

    Parameters
    ----------
    name : "scalar", "avx2", "avx512" or "amx"

    Raises
    ------
    ValueError
        If this build does not have it or this processor does not support it.

    Examples
    --------
    >>> import fastconv as fc
    >>> with fc.isa("scalar"):
    ...     fc.get_isa()
    'scalar'
    """
    _check_isa_type("isa", name)
    try:
        before = _core.set_thread_isa(name)
    except ValueError as error:
        raise ValueError(f"isa: {error}") from None
    try:
        yield
    finally:
        _core.set_thread_isa(before)


def _check_isa_type(function: str, name: object) -> None:
    if not (isinstance(name, str) or (name is None and function == "set_isa")):
        raise TypeError(f"{function}: name must be a str, not {type(name).__name__} {name!r}")


def processor_name() -> str:
    """The processor's model, as the system calls it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith(("model name", "Model")):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _or_error(function: Any) -> Any:
    """What `function` returns; where an environment variable is wrong, the message that says so."""
    try:
        return function()
    except ValueError as error:
        return f"error: {error}"


def _facts() -> dict[str, dict[str, Any]]:
    import numpy as np

    from . import cuda

    return {
        "fastconv": {
            "version": _core.__version__,
            "compiler": _core.compiler,
            "build type": _core.build_type + (f", {_core.sanitize}" if _core.sanitize else ""),
            "path": os.path.dirname(os.path.abspath(__file__)),
        },
        "python": {
            "version": platform.python_version(),
            "numpy": np.__version__,
            "GIL": getattr(sys, "_is_gil_enabled", lambda: True)(),
        },
        "processor": {
            "model": processor_name(),
            "machine": platform.machine(),
            "instruction sets built": _core.built_isas(),
            "instruction sets supported here": _core.supported_isas(),
            "instruction set in use": _or_error(_core.current_isa),
        },
        "threads": {
            "in use": _or_error(_core.num_threads),
            "woken on CPUs of their own": _or_error(_core.places_workers),
            "CPUs by affinity": _core.affinity_cpus(),
            "CPUs by affinity and cgroup quota": _core.available_cpus(),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        },
        "memory": {
            "workspace a call (MB)": _or_error(lambda: _core.workspace_limit() >> 20),
        },
        "cuda": {
            "built": _core.cuda.built(),
            "architectures": _core.cuda.architectures().split(),
            "available": cuda.is_available(),
            "reason": cuda.why_unavailable(),
            "GPUs": [cuda.describe(index) for index in range(cuda.device_count())],
        },
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }


def show_config(mode: str = "stdout") -> dict[str, dict[str, Any]] | None:
    """Show what was built, what this machine has and what is in use, as `numpy.show_config` does.

    Parameters
    ----------
    mode : "stdout" or "dicts"
        Print the facts, or return them as nested dicts.

    Returns
    -------
    dict or None
        None if printed.

    Raises
    ------
    ValueError
        If mode is neither.

    Examples
    --------
    >>> import fastconv as fc
    >>> fc.show_config("dicts")["cuda"]["available"] == fc.cuda.is_available()
    True
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f'show_config: mode must be "stdout" or "dicts", not {mode!r}')
    facts = _facts()
    if mode == "dicts":
        return facts
    for section, entries in facts.items():
        if not entries:
            continue
        print(f"{section}:")
        for name, value in entries.items():
            shown = (
                (", " if name == "GPUs" else " ").join(value) if isinstance(value, list) else value
            )
            print(f"  {name + ':':<35} {shown}")
    return None


def unknown_variables() -> list[str]:
    """FASTCONV_* variables that nothing reads."""
    return sorted(
        name
        for name in os.environ
        if name.startswith("FASTCONV_")
        and not name.startswith(_OF_THE_TESTS)
        and name not in ENVIRONMENT
    )


def warn_of_unknown_variables() -> None:
    """Warn of FASTCONV_* variables that nothing reads: most likely misspelt."""
    unknown = unknown_variables()
    if not unknown:
        return
    import difflib
    import warnings

    for name in unknown:
        close = difflib.get_close_matches(name, ENVIRONMENT, 1)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(ENVIRONMENT)}"
        warnings.warn(
            f"environment variable {name} is unknown to fastconv; {hint}",
            RuntimeWarning,
            stacklevel=3,
        )
