"""Compiling CUDA sources for the CPU, against the emulation (tests/emulation): what the tests of it
and of kernels by themselves share."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "g++")

needs_compiler = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only"),
    pytest.mark.skipif(not EMULATION.is_dir(), reason="not a checkout: the sources are not here"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler ({COMPILER})"),
]

# The emulation's threads have small stacks: a frame that leaps over the guard page must touch it.
FLAGS = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
FLAGS += ["-fstack-clash-protection"]
FLAGS += ["-I", str(EMULATION / "include"), "-I", str(ROOT / "csrc"), "-x", "c++", "-c"]
LIBRARY = ["-fPIC", "-ffp-contract=off", "-fvisibility=hidden"]


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def build(made: Path, sources: Iterable[Path], flags: Sequence[str] = ()) -> Path:
    """The program ``made``, or the shared library if its name ends in .so, of ``sources`` and the
    emulation; objects lie beside it."""
    library = made.suffix == ".so"
    everything = [*sources, *sorted(EMULATION.glob("*.cpp"))]
    objects = [made.parent / f"{source.name}.o" for source in everything]
    compiler = [COMPILER, *FLAGS, *(LIBRARY if library else []), *flags]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        commands = ([*compiler, str(s), "-o", str(o)] for s, o in zip(everything, objects))
        list(pool.map(run, commands))
    link = [COMPILER, *(["-shared"] if library else []), *map(str, objects)]
    run([*link, "-ldl", "-lpthread", "-o", str(made)])
    return made


def build_for_gpu(made: Path, source: Path, architecture: str, *others: Path) -> Path:
    """The shared library ``made`` of ``source`` and ``others`` by nvcc; skips unless
    FASTCONV_TEST_GPU is 1."""
    if os.environ.get("FASTCONV_TEST_GPU") != "1":
        pytest.skip("FASTCONV_TEST_GPU is not 1")
    command = [os.environ.get("CUDACXX", "nvcc"), "-std=c++17", architecture]
    command += ["-Xcompiler", "-fPIC", "-shared", "-I", str(ROOT / "csrc")]
    run([*command, str(source), *map(str, others), "-o", str(made)])
    return made


def check_exact(program: Path, arguments: Sequence[str], copies: str) -> None:
    """``program`` finds no failure, with cp.async's copies ``copies`` ("delayed", "immediate")."""
    environment = {**os.environ, "FASTCONV_EMULATION_CP_ASYNC": copies}
    command = [str(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
    assert not done.stdout.startswith("0 checks")
