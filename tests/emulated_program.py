"""Compiling CUDA sources for the CPU, against the emulation (tests/emulation): what the tests of it
and of kernels by themselves share."""

from __future__ import annotations

import atexit
import concurrent.futures
import ctypes
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import Array

ROOT = Path(__file__).resolve().parent.parent
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "g++")
ORDERS = ["ascending", "descending", "random:1", "random:2"]
HOPPER = "-gencode=arch=compute_90a,code=sm_90a"

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
    compiler = (COMPILER, *FLAGS, *(LIBRARY if library else []))
    objects = compiled((*compiler, *flags), sources, made.parent) + emulation_objects(compiler)
    link = [COMPILER, *(["-shared"] if library else []), *map(str, objects)]
    run([*link, "-ldl", "-lpthread", "-o", str(made)])
    return made


def compiled(compiler: Sequence[str], sources: Iterable[Path], folder: Path) -> list[Path]:
    """The object files of ``sources``."""
    files = [(source, folder / f"{source.name}.o") for source in sources]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(run, ([*compiler, str(s), "-o", str(o)] for s, o in files)))
    return [made for _, made in files]


def own_folder() -> Path:
    """Of this process, until it ends."""
    folder = Path(tempfile.mkdtemp(prefix="fastconv_emulation_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def emulation_objects(compiler: tuple[str, ...]) -> list[Path]:
    """The emulation's own, once for all that link them."""
    return compiled(compiler, sorted(EMULATION.glob("*.cpp")), own_folder())


@functools.cache
def cases() -> Path:
    """All cases and the emulation as one shared library: every library with an emulation takes
    static thread-local storage, of which a process has room for a few."""
    flags = ["-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
    return build(own_folder() / "cases.so", sorted(EMULATION.glob("cases/*.cu")), flags)


def build_for_gpu(made: Path, source: Path, architecture: str, *others: Path) -> Path:
    """The shared library ``made`` of ``source`` and ``others`` by nvcc; skips unless
    FASTCONV_TEST_GPU is 1."""
    if os.environ.get("FASTCONV_TEST_GPU") != "1":
        pytest.skip("FASTCONV_TEST_GPU is not 1")
    command = [os.environ.get("CUDACXX", "nvcc"), "-std=c++17", architecture]
    command += ["-Xcompiler", "-fPIC", "-shared", "-I", str(ROOT / "csrc")]
    run([*command, str(source), *map(str, others), "-o", str(made)])
    return made


def load(path: Path, functions: Iterable[str]) -> ctypes.CDLL:
    """The library; those of ``functions`` that it has return an error's text."""
    library = ctypes.CDLL(str(path))
    for name in functions:
        if hasattr(library, name):
            getattr(library, name).restype = ctypes.c_char_p
    return library


def case_fixtures(
    case: str, *functions: str, architecture: str = HOPPER, maps: bool = False
) -> tuple[Any, Any]:
    """The fixtures ``emulated``, the library of all cases, and ``library``, which is that and, on a
    GPU, ``cases/<case>.cu`` by nvcc, with what makes tensor maps there."""
    source = EMULATION / "cases" / f"{case}.cu"
    others = [ROOT / "csrc" / "cuda" / "tensor_map.cpp", EMULATION / "cases" / "check.cpp"]

    @pytest.fixture(scope="module")
    def emulated() -> ctypes.CDLL:
        return load(cases(), functions)

    @pytest.fixture(scope="module", params=["emulated", "gpu"])
    def library(
        request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
    ) -> ctypes.CDLL:
        if request.param == "emulated":
            return load(cases(), functions)
        made = tmp_path_factory.mktemp(f"{case}_gpu") / f"{case}.so"
        built = build_for_gpu(made, source, architecture, *(others if maps else []))
        return load(built, functions)

    return emulated, library


def address(array: Array) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def ints(*values: int) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * len(values))(*values)


def check_exact(program: Path, arguments: Sequence[str], copies: str) -> None:
    """``program`` finds no failure, with cp.async's copies ``copies`` ("delayed", "immediate")."""
    environment = {**os.environ, "FASTCONV_EMULATION_CP_ASYNC": copies}
    command = [str(program), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
    assert not done.stdout.startswith("0 checks")
