"""The script for machines with a GPU, .ci/gpu: a stage fails where its program fails and where
nothing ran. Python and compute-sanitizer are stand-ins that say what the real ones would."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import fastconv as fc
import pytest

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "gpu"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="not a checkout: no .ci/gpu")

#: answers by what is asked; PYTEST and FAMILY are what a test sets
PYTHON = """#!/bin/bash
case "$*" in
    *"import xdist"*) exit 1 ;;
    *"--list") echo sm80 pool ;;
    *pytest*) echo "$PYTEST"; [[ "$PYTEST" != *failed* ]] ;;
    *sanitized.py*) echo "${FAMILY//NAME/${@: -1}}" ;;
    *) exit 3 ;;
esac
"""
SANITIZER = """#!/bin/bash
while [[ "$1" == --* ]]; do shift 2; done
"$@"
echo "$SUMMARY"
[[ "$SUMMARY" == *" 0 errors" ]] || exit 9
"""
FINE = {
    "PYTEST": "12 passed in 1s",
    "FAMILY": "NAME: 7 results agree",
    "SUMMARY": "ERROR SUMMARY: 0 errors",
}


def run(folder: Path, *stages: str, **says: str) -> subprocess.CompletedProcess[str]:
    """The script in an environment of stand-ins."""
    for name, text in (("python", PYTHON), ("compute-sanitizer", SANITIZER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, **FINE, "PATH": path, "PYTHON": str(folder / "python"), **says}
    return subprocess.run(
        [str(SCRIPT), str(folder / "out"), *stages],
        capture_output=True, text=True, env=environment, timeout=60,
    )  # fmt: skip


def test_stages_pass(tmp_path: Path) -> None:
    done = run(tmp_path, "tests", "sanitizer")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "memcheck sm80: passed" in done.stdout
    assert "synccheck pool: passed" in done.stdout


@pytest.mark.parametrize("says", ["2 failed, 12 passed in 1s", "31 skipped in 1s", ""])
def test_tests_that_fail_or_do_not_run(tmp_path: Path, says: str) -> None:
    done = run(tmp_path, "tests", PYTEST=says)
    assert done.returncode == 1
    assert "=== tests FAILED" in done.stdout


@pytest.mark.parametrize(
    "says",
    [
        {"SUMMARY": "ERROR SUMMARY: 3 errors"},
        {"SUMMARY": ""},
        {"FAMILY": "NAME: 0 results agree"},
        {"FAMILY": ""},
        {"SECONDS_EACH": "0.001"},
    ],
)
def test_a_sanitizer_that_finds_something_or_nothing_ran(
    tmp_path: Path, says: dict[str, str]
) -> None:
    done = run(tmp_path, "sanitizer", **says)
    assert done.returncode == 1, done.stdout
    assert "=== sanitizer FAILED" in done.stdout


def test_a_package_built_elsewhere(tmp_path: Path) -> None:
    """No stage build, and a folder without the package is refused."""
    done = run(tmp_path, SITE=str(tmp_path))
    assert (done.returncode, "no folder fastconv" in done.stderr) == (2, True)
    (tmp_path / "site" / "fastconv").mkdir(parents=True)
    done = run(tmp_path, SITE=str(tmp_path / "site"))
    assert "=== build" not in done.stdout
    assert "=== doctor FAILED" in done.stdout  # the stand-in has no such package


def sanitized(*families: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT.parent.parent / "tests" / "sanitized.py"), *families]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


needs_kernels = pytest.mark.skipif(not fc.cuda.is_available(), reason="no CUDA arrays here")


@needs_kernels
def test_families_for_the_sanitizer() -> None:
    """Those that are quick in the emulation too."""
    known = sanitized("--list").stdout.split()
    assert {"sm80", "tma", "patch", "simt", "pool"} <= set(known)
    quick = [name for name in known if name not in ("sm80", "tma", "patch", "simt", "naive")]
    done = sanitized(*quick)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == quick
    assert sanitized("sm80", "nonsense").returncode == 2


@pytest.mark.full
@needs_kernels
def test_every_family_for_the_sanitizer() -> None:
    done = sanitized()
    assert done.returncode == 0, done.stdout + done.stderr
