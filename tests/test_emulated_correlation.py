"""Every tensor-core correlation kernel, exactly, in the emulation (tests/emulation/kernels)."""

from __future__ import annotations

import concurrent.futures
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "g++")

pytestmark = [
    pytest.mark.full,  # minutes of compiling; the same kernels run in tests/test_cuda_*.py
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux only"),
    pytest.mark.skipif(not EMULATION.is_dir(), reason="not a checkout: the sources are not here"),
    pytest.mark.skipif(shutil.which(COMPILER) is None, reason=f"no C++ compiler ({COMPILER})"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("correlation")
    sources = [
        ROOT / "csrc" / "cuda" / "conv2d_sm80.cu",
        ROOT / "csrc" / "cuda" / "conv2d_sm90.cu",
        EMULATION / "kernels" / "correlation.cpp",
        *sorted(EMULATION.glob("*.cpp")),
    ]
    objects = [folder / f"{source.name}.o" for source in sources]
    flags = ["-std=c++17", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    flags += ["-fstack-clash-protection"]
    flags += ["-I", str(EMULATION / "include"), "-I", str(ROOT / "csrc"), "-x", "c++", "-c"]

    def run(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(
            pool.map(
                lambda pair: run([COMPILER, *flags, str(pair[0]), "-o", str(pair[1])]),
                zip(sources, objects),
            )
        )
    made = folder / "correlation"
    run([COMPILER, *map(str, objects), "-ldl", "-lpthread", "-o", str(made)])
    return made


@pytest.mark.parametrize("copies", ["delayed", "immediate"])
def test_every_kernel_is_exact(program: Path, copies: str) -> None:
    """Late copies show a missing wait, early ones a stage that is still being read."""
    environment = {**os.environ, "FASTCONV_EMULATION_CP_ASYNC": copies}
    done = subprocess.run([str(program)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 failures" in done.stdout
