"""``python -m fastconv doctor``: does this installation work, is it as fast as it could be, and
which command mends what is missing. Exit status 1 if something is broken."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from .. import _core, config, cuda


class Finding(NamedTuple):
    """One line of the report: how it is ("ok", "note" or "broken"), and what would mend it."""

    state: str
    subject: str
    text: str
    command: str = ""


def add_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "doctor",
        help="check this installation and say what is missing",
        description="Check this installation; say what is missing and the command that mends it.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    findings = [finding for check in CHECKS for finding in check()]
    for finding in findings:
        print(f"{finding.state:<7} {finding.subject + ':':<18} {finding.text}")
        if finding.command:
            print(f"{'':<27}-> {finding.command}")
    broken = sum(finding.state == "broken" for finding in findings)
    print("\nfastconv works here." if not broken else f"\n{broken} broken; see above.")
    return 1 if broken else 0


def check_build() -> Iterator[Finding]:
    import numpy as np

    built = f"fastconv {_core.__version__}, {_core.compiler}, {_core.build_type}"
    python = f"Python {platform.python_version()}, NumPy {np.__version__}"
    yield Finding("ok", "package", f"{built}; {python}")
    if _core.build_type != "Release" or _core.sanitize:
        yield Finding(
            "note",
            "build type",
            f"{_core.build_type} {_core.sanitize}: slow, for debugging only",
            f"{sys.executable} -m pip install --force-reinstall fastconv",
        )


def check_instruction_sets() -> Iterator[Finding]:
    built, supported = _core.built_isas(), _core.supported_isas()
    try:
        current = _core.current_isa()
    except ValueError as error:
        yield Finding("broken", "instruction set", str(error), "unset FASTCONV_ISA")
        return
    text = f"{current} of built: {' '.join(built)}; supported here: {' '.join(supported)}"
    if current == supported[0]:
        state, command = "ok", ""
    else:
        state, command = "note", "unset FASTCONV_ISA"
        text += f"; {supported[0]} would be faster"
    yield Finding(state, "instruction set", text, command)
    if supported == ["scalar"]:
        reason = "this processor has no AVX2" if len(built) > 1 else "no others for this processor"
        yield Finding("note", "instruction set", f"only scalar kernels: {reason}; expect 1/8 speed")


def check_threads() -> Iterator[Finding]:
    try:
        threads = _core.num_threads()
    except ValueError as error:
        yield Finding("broken", "threads", str(error), "unset FASTCONV_NUM_THREADS")
        return
    try:
        _core.places_workers()
    except ValueError as error:
        yield Finding("broken", "threads", str(error), "unset FASTCONV_PLACE_WORKERS")
    affinity, available = _core.affinity_cpus(), _core.available_cpus()
    text = f"{threads}; CPUs by affinity {affinity}, with the cgroup's quota {available}"
    for name in ("FASTCONV_NUM_THREADS", "OMP_NUM_THREADS"):
        if name in os.environ:
            text += f"; {name}={os.environ[name]}"
    if threads > available:
        text += "; more threads than CPUs are slower than fewer"
        yield Finding("note", "threads", text, f"export FASTCONV_NUM_THREADS={available}")
    else:
        yield Finding("ok", "threads", text)
    if available < affinity:
        yield Finding("note", "cgroup", f"the quota leaves {available} of {affinity} CPUs")


def check_memory() -> Iterator[Finding]:
    try:
        yield Finding("ok", "workspace", f"{_core.workspace_limit() >> 20} MB a call")
    except ValueError as error:
        yield Finding("broken", "workspace", str(error), "unset FASTCONV_WORKSPACE_MB")


def check_kernels() -> Iterator[Finding]:
    """One convolution of small integers, exact in float32, with each instruction set."""
    import numpy as np

    from .. import ops

    x, weight, expected = _exact_convolution()
    for name in _core.supported_isas():
        try:
            with config.isa(name):
                right = np.array_equal(ops.conv2d(x, weight, padding=1), expected)
        except ValueError as error:
            yield Finding("broken", f"kernels {name}", str(error))
            continue
        if right:
            yield Finding("ok", f"kernels {name}", "a test convolution is exact")
        else:
            yield Finding(
                "broken",
                f"kernels {name}",
                "a test convolution is wrong: please report it with the output of `info`",
                f"{sys.executable} -m fastconv info",
            )


def _exact_convolution() -> tuple[Any, Any, Any]:
    """x, weight and the result with padding 1."""
    import numpy as np

    from .. import reference

    x = (np.arange(2 * 5 * 9 * 11) % 7 - 3).astype(np.float32).reshape(2, 5, 9, 11)
    weight = (np.arange(17 * 5 * 3 * 3) % 5 - 2).astype(np.float32).reshape(17, 5, 3, 3)
    return x, weight, reference.conv2d(x, weight, padding=1)


def check_compiler() -> Iterator[Finding]:
    """Only needed to build from source: a note if missing."""
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), "")
    version = _first_line(compiler, "--version") if compiler else ""
    if version:
        yield Finding("ok", "compiler", version)
    else:
        yield Finding(
            "note", "compiler", "no C++17 compiler (needed to build from source only)",
            "apt-get install g++   (or: dnf install gcc-c++)",
        )  # fmt: skip


def check_cuda() -> Iterator[Finding]:
    """What was built; whether there is a GPU for it; the compiler that a build would take."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin:/opt/cuda/bin")
    if _core.cuda.built():
        yield Finding("ok", "CUDA kernels", f"built for {_architectures()}")
    else:
        command = f"FASTCONV_CUDA=ON {sys.executable} -m pip install --no-binary fastconv fastconv"
        yield Finding("note", "CUDA kernels", cuda.why_unavailable(), command if nvcc else "")
    driver = _first_line("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    if cuda.is_available():
        gpus = "; ".join(cuda.describe(index) for index in range(cuda.device_count()))
        yield Finding("ok", "GPU", gpus + (f"; driver {driver}" if driver else ""))
        yield from _check_cuda_kernels()
    elif _core.cuda.built():
        text = f"none that can be used: {cuda.why_unavailable()}; the CPU's kernels work"
        yield Finding("note", "GPU", text)
    elif driver:
        yield Finding("note", "GPU", f"not used by this build; driver {driver}")
    else:
        yield Finding("note", "GPU", "no NVIDIA driver found (nvidia-smi)")
    version = _last_line(nvcc, "--version") if nvcc else ""
    yield Finding(
        "ok" if nvcc else "note",
        "nvcc",
        f"{nvcc} {version}" if nvcc else "none found (needed to build CUDA kernels only)",
    )


def _architectures() -> str:
    """ "compute capability 7.5, 8.0, 9.0a; PTX for 9.0 and later GPUs" """
    names = _core.cuda.architectures().split()
    dotted = [re.sub(r"(\d)([a-z]?)(-virtual)?$", r".\1\2", name) for name in names]
    machine = [text for name, text in zip(names, dotted) if not name.endswith("-virtual")]
    ptx = [text for name, text in zip(names, dotted) if name.endswith("-virtual")]
    parts = [f"compute capability {', '.join(machine)}"] if machine else []
    parts += [f"PTX for {', '.join(ptx)} and later GPUs"] if ptx else []
    return "; ".join(parts)


def _check_cuda_kernels() -> Iterator[Finding]:
    """The test convolution of check_kernels on the GPU."""
    import numpy as np

    from .. import ops

    x, weight, expected = _exact_convolution()
    try:
        y = cuda.asnumpy(ops.conv2d(cuda.asarray(x), cuda.asarray(weight), padding=1))
    except (RuntimeError, MemoryError, ValueError) as error:
        yield Finding("broken", "kernels cuda", str(error))
        return
    if np.array_equal(y, expected):
        yield Finding("ok", "kernels cuda", "a test convolution is exact")
    else:
        yield Finding(
            "broken",
            "kernels cuda",
            "a test convolution is wrong: please report it with the output of `info`",
            f"{sys.executable} -m fastconv info",
        )


def check_bfloat16() -> Iterator[Finding]:
    if importlib.util.find_spec("ml_dtypes"):
        yield Finding("ok", "bfloat16", "ml_dtypes is installed")
    elif _core.cuda.built():
        yield Finding(
            "note", "bfloat16", "on GPUs only: NumPy needs ml_dtypes for it",
            f"{sys.executable} -m pip install ml_dtypes",
        )  # fmt: skip


def check_environment() -> Iterator[Finding]:
    for name in config.unknown_variables():
        yield Finding("note", "environment", f"{name} is unknown to fastconv", f"unset {name}")


CHECKS: tuple[Callable[[], Iterator[Finding]], ...] = (
    check_build,
    check_instruction_sets,
    check_threads,
    check_memory,
    check_kernels,
    check_compiler,
    check_cuda,
    check_bfloat16,
    check_environment,
)


def _output(command: str, *arguments: str) -> list[str]:
    try:
        done = subprocess.run(
            [*command.split(), *arguments], capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.strip().splitlines()


def _first_line(command: str, *arguments: str) -> str:
    return next(iter(_output(command, *arguments)), "")


def _last_line(command: str, *arguments: str) -> str:
    return next(reversed(_output(command, *arguments)), "")
