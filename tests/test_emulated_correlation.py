"""Every tensor-core correlation kernel, exactly, in the emulation (tests/emulation/kernels)."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulated_program import EMULATION, ROOT, build, check_exact, needs_compiler

# Minutes of compiling; the same kernels run in tests/test_cuda_*.py.
pytestmark = [pytest.mark.full, *needs_compiler]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    sources = [ROOT / "csrc" / "cuda" / f"conv2d_{target}.cu" for target in ("sm80", "sm90")]
    made = tmp_path_factory.mktemp("correlation") / "correlation"
    return build(made, [*sources, EMULATION / "kernels" / "correlation.cpp"])


@pytest.mark.parametrize("copies", ["delayed", "immediate"])
def test_every_kernel_is_exact(program: Path, copies: str) -> None:
    """Late copies show a missing wait, early ones a stage that is still being read."""
    check_exact(program, [], copies)
